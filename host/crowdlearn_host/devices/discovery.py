"""Which phones are at hand, and by which way: virtual, by address, on a USB cable, behind an adb server."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from crowdlearn_host.adb.carriers.blocking import in_own_thread
from crowdlearn_host.adb.carriers.server import ServerDevice, server_devices, server_port
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.devices.facts import DeviceFacts, read_facts
from crowdlearn_host.emulator.manager import list_phones
from crowdlearn_host.errors import FleetError

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
    """Return every phone at hand, each once: what was named, virtual phones, the adb server's, those on USB.

    An adb server holds the USB devices, so USB is looked at only without one.
    """
    served = server_devices(server_port())
    found = {address: _way(address, served) for address in addresses}
    for info in list_phones(home):
        found.setdefault(info.serial, Found(info.serial, "virtual"))
    for item in served:
        found.setdefault(item.serial, Found(item.serial, "server"))
    for serial in [] if served else _usb_serials():
        found.setdefault(serial, Found(serial, "usb"))
    return list(found.values())


def _way(serial: str, served: Sequence[ServerDevice]) -> Found:
    """Return the way to a phone that was named. HOST:PORT is dialled, unless the adb server has it in use."""
    for item in served:
        if item.serial == serial and (item.usable or ":" not in serial):
            return Found(serial, "server")
    on_usb = ":" not in serial and not served and serial in _usb_serials()
    return Found(serial, "usb" if on_usb else "tcp")


def _locate(serial: str) -> Found:
    try:
        return _way(serial, server_devices(server_port()))
    except FleetError:
        if ":" not in serial:
            raise
        return Found(serial, "tcp")  # what stands where the adb server would does not matter to it


async def dial(serial: str, *, key: Path | None = None) -> AdbDevice:
    """Connect to a phone by a serial that `discover` gives, whichever its way is now. Raises FleetError."""
    return await connect(await in_own_thread(_locate, serial), key=key)


async def connect(found: Found, *, key: Path | None = None) -> AdbDevice:
    """Connect to a found phone. Raises FleetError that says what to do."""
    match found.way:
        case "server":
            return await AdbDevice.connect_server(found.serial)
        case "usb":
            return await AdbDevice.connect_usb(found.serial, key=key)
    if found.serial.isdigit():  # a serial number, which the system would take for an address
        raise FleetError(_gone(found.serial))
    try:
        return await AdbDevice.connect(found.serial, key=key)
    except FleetError as error:
        if ":" in found.serial or not isinstance(error.__cause__, socket.gaierror):
            raise
        raise FleetError(_gone(found.serial)) from error


def _gone(serial: str) -> str:
    return (
        f"{serial} is gone: no USB cable and no adb server has it, and it is no name in the network; "
        "plug it in, and see that debugging is on"
    )


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
