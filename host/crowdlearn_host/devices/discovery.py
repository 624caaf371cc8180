"""The phones at hand, and the way to each."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_host.adb.carriers.blocking import in_own_thread
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.devices.facts import DeviceFacts, read_facts
from crowdlearn_host.devices.ways.base import Surroundings
from crowdlearn_host.devices.ways.registry import WAYS
from crowdlearn_host.devices.ways.tcp import Tcp
from crowdlearn_host.errors import FleetError

FACTS_SECONDS = 20.0
"""The limit, in seconds, for a connected phone's facts; connecting has limits of its own."""


@dataclass(frozen=True)
class Found:
    """A phone that was found, and the name of the way to it."""

    serial: str
    way: str


@dataclass(frozen=True)
class Visited:
    """A found phone with its facts, or with why it cannot be used."""

    found: Found
    facts: DeviceFacts | None
    problem: str = ""


def discover(addresses: Sequence[str] = (), home: Path | None = None) -> list[Found]:
    """Return every phone at hand, each once: first those that were named, then what each way finds.

    `home` is the folder of virtual phones, if not the user's. Raises FleetError if phones cannot be looked
    for.
    """
    around = Surroundings(home)
    found = {address: Found(address, _way_to(address, around)) for address in addresses}
    for way in WAYS.values():
        for serial in way.serials(around):
            found.setdefault(serial, Found(serial, way.name))
    return list(found.values())


def _way_to(serial: str, around: Surroundings) -> str:
    """Return the name of the first way that leads to a phone that was named."""
    return next(way.name for way in WAYS.values() if way.leads_to(serial, around))


def _locate(serial: str) -> Found:
    try:
        return Found(serial, _way_to(serial, Surroundings()))
    except FleetError:
        if ":" not in serial:
            raise
        return Found(serial, Tcp.name)  # an address needs no adb server, whatever stands in its place


async def dial(serial: str, *, key: Path | None = None) -> AdbDevice:
    """Connect to a phone by a serial that `discover` gives, whichever its way is now. Raises FleetError."""
    return await connect(await in_own_thread(_locate, serial), key=key)


async def connect(found: Found, *, key: Path | None = None) -> AdbDevice:
    """Connect to a found phone. Raises FleetError that says what to do."""
    return await WAYS[found.way].connect(found.serial, key=key)


def named(serial: str, error: Exception) -> str:
    """Return the message of an error, with the serial of its phone before it unless it begins with that."""
    text = str(error)
    return text if text.startswith(serial) else f"{serial}: {text}"


async def visit(all_found: Sequence[Found], *, key: Path | None = None) -> list[Visited]:
    """Read the facts of all of them at once; one that does not answer takes its own time only."""
    return list(await asyncio.gather(*(_visit(found, key) for found in all_found)))


async def _visit(found: Found, key: Path | None) -> Visited:
    try:
        async with await connect(found, key=key) as device, asyncio.timeout(FACTS_SECONDS):
            return Visited(found, await read_facts(device))
    except TimeoutError:
        return Visited(found, None, f"{found.serial} did not send its facts within {FACTS_SECONDS:.0f} s")
    except FleetError as error:
        return Visited(found, None, str(error))
