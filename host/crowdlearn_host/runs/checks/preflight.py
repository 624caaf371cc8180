"""Mistakes in a run that show before anything is imported, exported or started."""

from __future__ import annotations

from pathlib import Path

from crowdlearn_host import emulator as phones
from crowdlearn_host.devices.joining.lobby import Strangers, doors
from crowdlearn_host.emulator.hardware.profiles import find_profile
from crowdlearn_host.errors import ConfigError, FleetError
from crowdlearn_host.models.names import check_name
from crowdlearn_host.spec.run_spec import DIGITS, RunSpec


def check_start(config: RunSpec) -> None:
    """See that what the configuration names is there: model, data, plan, phones to imitate.

    Raises ConfigError or FleetError. Takes no time, and imports nothing that does.
    """
    check_name(config.model)
    if config.data not in (None, DIGITS) and not Path(str(config.data)).is_dir():
        raise ConfigError(f"data = {config.data!r} is not a folder; name the folder that holds the data set")
    if config.group.plan is not None and not config.group.plan.is_file():
        raise ConfigError(
            f"group.plan = {str(config.group.plan)!r} is not there; write it with 'crowdlearn plan --save'"
        )
    if config.fleet.virtual:
        find_profile(config.fleet.profile)


def check_ports(config: RunSpec) -> None:
    """See that the ports on which the host is to listen are free, and that relays have one.

    Raises ConfigError or FleetError.
    """
    if config.fleet.relays and config.fleet.listen is None:
        raise ConfigError(
            "fleet.relays carry between devices that dial in; set fleet.listen (HOST:PORT) and fleet.joining "
            "(how many), or leave it out"
        )
    for key, address in (("fleet.listen", config.fleet.listen), ("metrics.listen", config.metrics.listen)):
        if address is not None:
            check_port(address, key)


def check_port(address: str, key: str) -> None:
    """Raise FleetError if nothing can listen now on `address` (HOST:PORT), which is the value of `key`."""
    host, _, port = address.rpartition(":")
    try:
        for door in doors(host.strip("[]"), int(port), Strangers()):
            door.close()
    except (OSError, OverflowError) as error:
        raise FleetError(
            f"cannot listen on {address}: {getattr(error, 'strerror', None) or error}; "
            f"end what listens there, or name another port in {key}"
        ) from error


def serials_of(config: RunSpec) -> list[str] | None:
    """Return the serials of the devices that are reached over adb; None if the run starts its own virtual
    phones.

    Raises FleetError if there are no devices at all.
    """
    fleet = config.fleet
    if fleet.virtual:
        return None
    if fleet.phones:
        return list(fleet.phones)
    found = [] if fleet.joining else [phone.serial for phone in phones.list_phones()]
    if not found and not fleet.joining:
        raise FleetError(
            "no devices: name them in fleet.phones, start some with 'crowdlearn phones up --count 4', "
            "or set fleet.virtual"
        )
    return found
