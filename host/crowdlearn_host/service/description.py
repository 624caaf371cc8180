"""The description of a run as a service takes it: without devices, which the service gives."""

from __future__ import annotations

import tomllib
from pathlib import Path

from crowdlearn_host.errors import ConfigError, FleetError
from crowdlearn_host.planner.problem.fleet import Fleet, load_fleet
from crowdlearn_host.runs.checks.preflight import check_start
from crowdlearn_host.spec.run_spec import RunSpec

from .cohort import Cohort
from .jobs import Job

GIVEN = ("phones", "virtual", "listen", "joining")
"""Settings of the fleet that a service makes itself."""


def check_served(spec: RunSpec) -> None:
    """See that a service can train what is described, as far as that takes no time. Raises ConfigError or
    FleetError.
    """
    refused = [name for name in GIVEN if getattr(spec.fleet, name)]
    if refused:
        raise ConfigError(
            f"fleet.{refused[0]}: a service gives runs the devices that are there; leave it out, and say in "
            "[crowd] which and how many"
        )
    if spec.group.plan is not None:
        raise ConfigError(
            "group.plan is for devices by name, and a service takes those that are there; leave it out, and "
            "name a fleet by class as crowd.fleet to have each run planned"
        )
    check_start(spec)
    if spec.crowd.fleet is not None:
        fleet = load_fleet(spec.crowd.fleet)
        if any(not kind.devices for kind in fleet.classes):
            raise FleetError(f"{spec.crowd.fleet} must name the devices of each class; a count does not")


def spec_of(job: Job) -> RunSpec:
    """Return the description of a run. Raises ConfigError if it is none any more."""
    place = f"the description of {job.label}"
    try:
        values = tomllib.loads(job.description)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{place} is no TOML ({error}); submit the run again") from error
    return RunSpec.parse(values, place)


def cohort_of(spec: RunSpec) -> Cohort:
    """Return the devices that a run needs."""
    group, crowd = spec.group, spec.crowd
    most = max(group.groups, crowd.most_groups)
    return Cohort(group.pieces, group.groups, most, crowd.spares, crowd.wait)


def named(spec: RunSpec) -> frozenset[str] | None:
    """Return the devices that may take part by the fleet of the crowd; None if all may. Raises ConfigError if
    the fleet cannot be read.
    """
    if spec.crowd.fleet is None:
        return None
    return frozenset(name for kind in load_fleet(spec.crowd.fleet).classes for name in kind.devices)


def for_devices(spec: RunSpec, seats: int, groups: int, listen: str) -> RunSpec:
    """Return the description of a run with so many devices in so many groups, which connect at `listen`. It
    has no more relays than groups.
    """
    relays = min(spec.fleet.relays, groups)
    fleet = spec.fleet.model_copy(update={"joining": seats, "listen": listen, "relays": relays})
    group = spec.group.model_copy(update={"groups": groups})
    return spec.model_copy(update={"fleet": fleet, "group": group})


def fleet_of(path: Path, devices: frozenset[str]) -> Fleet:
    """Return the fleet of these devices alone, by class. Raises ConfigError if the file cannot be read, or
    has none of them.
    """
    kinds = []
    for kind in load_fleet(path).classes:
        here = tuple(name for name in kind.devices if name in devices)
        if here:
            kinds.append(kind.model_copy(update={"devices": here}))
    if not kinds:
        raise ConfigError(f"{path} names none of the devices that are here; submit the run again")
    return Fleet.model_validate({"class": kinds})
