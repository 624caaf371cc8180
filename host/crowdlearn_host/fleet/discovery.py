"""Which phones are at hand, and by which way: virtual, by address, on a USB cable, behind an adb server."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from crowdlearn_host.adb.device import AdbDevice
from crowdlearn_host.adb.server import server_devices, server_port
from crowdlearn_host.errors import FleetError
from crowdlearn_host.fleet.facts import DeviceFacts, read_facts
from crowdlearn_host.phones.manager import list_phones

FACTS_SECONDS = 20.0
"""For what a connected phone says of itself; connecting has limits of its own, one for the owner's answer."""


@dataclass(frozen=True)
class Found:
    """A phone that was found; `way` is "virtual", "tcp", "usb" or "server"."""

    serial: str
    way: str


@dataclass(frozen=True)
class Visited:
    """A found phone with its facts, or with why it cannot be used."""

    found: Found
    facts: DeviceFacts | None
    problem: str = ""


def discover(addresses: Sequence[str] = (), home: Path | None = None) -> list[Found]:
    """Every phone at hand, each once: what was named, virtual phones, the adb server's, those on USB.

    An adb server holds the USB devices, so USB is looked at only without one.
    """
    found = {address: Found(address, "tcp") for address in addresses}
    for info in list_phones(home):
        found.setdefault(info.serial, Found(info.serial, "virtual"))
    served = server_devices(server_port())
    for item in served:
        found.setdefault(item.serial, Found(item.serial, "server"))
    for serial in [] if served else _usb_serials():
        found.setdefault(serial, Found(serial, "usb"))
    return list(found.values())


async def connect(found: Found, *, key: Path | None = None) -> AdbDevice:
    """Connect to a found phone. Raises FleetError that says what to do."""
    match found.way:
        case "server":
            return await AdbDevice.connect_server(found.serial)
        case "usb":
            return await AdbDevice.connect_usb(found.serial, key=key)
    return await AdbDevice.connect(found.serial, key=key)


async def visit(all_found: Sequence[Found], *, key: Path | None = None) -> list[Visited]:
    """Ask all of them at once; one that does not answer takes its own time only."""
    return list(await asyncio.gather(*(_visit(found, key) for found in all_found)))


async def _visit(found: Found, key: Path | None) -> Visited:
    try:
        async with await connect(found, key=key) as device, asyncio.timeout(FACTS_SECONDS):
            return Visited(found, await read_facts(device))
    except TimeoutError:
        return Visited(found, None, f"{found.serial} did not say what it is within {FACTS_SECONDS:.0f} s")
    except FleetError as error:
        return Visited(found, None, str(error))


def _usb_serials() -> list[str]:
    try:
        usb = import_module("adb_shell.transport.usb_transport")
    except (ImportError, OSError):
        return []
    try:
        return [str(transport.serial_number) for transport in usb.UsbTransport.find_all_adb_devices()]
    except Exception as error:
        raise FleetError(
            f"USB cannot be searched: {error}; pass addresses, or start an adb server"
        ) from error
