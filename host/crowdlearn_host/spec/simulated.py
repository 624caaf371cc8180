"""The simulation of a run that is described for phones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from crowdlearn_host.common.toml_files import Section, load_toml, read_toml
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION

from .optimizer import OptimizedSection
from .privacy import PrivacySection
from .provenance import load_inputs
from .run_spec import RunSpec
from .simulation import AS_PHONES, PartitionConfig, SharingConfig, SimulationConfig

RUN_KEYS = {"name", "data", "device_data", "input_shape", "fleet", "checkpoints"}
"""Keys of the description of a run that that of a crowd has not; there `group` is a number, here a table."""


@dataclass(frozen=True)
class Simulation:
    """A simulation to run: its configuration, the text that is kept of it, and the folder from which its
    paths are; the data that it names (a folder or "digits"), None if it names none.
    """

    config: SimulationConfig
    text: str
    folder: Path
    data: str | None = None


def simulation_of(spec: RunSpec) -> Simulation:
    """Return the simulation of a run that is described for devices."""
    return Simulation(_simulated_alike(spec), spec.to_toml(), Path.cwd(), spec.data)


def load_simulation(path: Path, folder: Path | None = None, overrides: Sequence[str] = ()) -> Simulation:
    """Read what to simulate: the description of a run of devices, or of a crowd with keys of its own.

    Raises ConfigError naming file, key, value and what is allowed.
    """
    values = read_toml(path)
    where = folder or path.parent
    if not (RUN_KEYS & values.keys() or isinstance(values.get("group"), dict)):
        crowd = load_toml(path, SimulationConfig, where, overrides)
        changed = tomli_w.dumps(crowd.model_dump(mode="json", exclude_none=True)) if overrides else None
        return Simulation(crowd, changed or path.read_text("utf-8"), where)
    spec = load_toml(path, RunSpec, where, overrides)
    text = spec.to_toml() if overrides else path.read_text("utf-8")
    return Simulation(_simulated_alike(spec), text, where, spec.data)


def load_kept_simulation(run: Path) -> SimulationConfig:
    """Return the configuration of the simulated run in this folder. Raises ConfigError or RunError."""
    return load_simulation(run / "config.toml", load_inputs(run).config_folder).config


def _simulated_alike(spec: RunSpec) -> SimulationConfig:
    from crowdlearn_host.planner.plan import read_plan  # imports torch

    plan = None if spec.group.plan is None else read_plan(spec.group.plan)
    pieces = len(plan.pieces) if plan else spec.group.pieces
    devices = len(plan.seats) if plan and plan.groups else spec.devices
    groups = len(plan.groups) if plan and plan.groups else spec.group.groups
    planned = plan.micro_batch if plan else 0
    micro = AS_PHONES
    if planned or spec.training.micro_batch or pieces == 1:
        micro = spec.training.micro_rows(planned, pieces=pieces)
    return simulated(spec, devices, micro, groups)


def simulated(spec: RunSpec, devices: int, micro_batch: int, groups: int | None = None) -> SimulationConfig:
    """Return the simulation that ends in the weights of `spec` on `devices` phones, in micro-batches of
    `micro_batch` samples: to 1e-4 with float32 on the wire, whose rounding is random otherwise.

    Raises ConfigError if a simulation cannot do what `spec` asks for.
    """
    if spec.device_data is not None:
        raise ConfigError("device_data lies on phones, where a simulation has none; name data instead")
    groups = groups or spec.group.groups
    if devices % groups:
        raise ConfigError(
            f"{devices} devices do not form {groups} groups of equal size, as a simulation needs them; "
            "change group.groups or the number of devices"
        )
    training, on_shares = spec.training, spec.privacy.sums == "shares"
    values = {
        "seed": training.seed,
        "model": spec.model,
        "devices": devices,
        "group": devices // groups,
        "pieces": 0 if spec.group.plan else spec.group.pieces,
        "rotation": spec.group.rotation or DEFAULT_ROTATION,
        "plan": spec.group.plan,
        "partition": PartitionConfig(kind="dealt"),
        "training": {
            **_alike(training, OptimizedSection),
            "epochs": training.epochs,
            "batch": training.batch,
            "loss": training.loss,
            "augment": training.augment,
            "wire": "float32" if on_shares or spec.privacy.private else training.wire,
            "staleness": training.staleness,
            "micro_batch": 0 if on_shares else micro_batch,
        },
        "sharing": {**_alike(spec.sharing, SharingConfig, {"enabled"}), "enabled": groups > 1},
        "validation": spec.validation,
        "own_metrics": spec.metrics.own,
        "device_metrics": spec.metrics.on_devices,
        "privacy": _alike(spec.privacy, PrivacySection),
    }
    return SimulationConfig.parse(values, f"{spec.name}, simulated")


def _alike(given: Section, section: type[Section], but: Collection[str] = ()) -> dict[str, Any]:
    """Return the settings of `given` that `section` has, too, all but those named."""
    return {name: getattr(given, name) for name in section.model_fields if name not in but}
