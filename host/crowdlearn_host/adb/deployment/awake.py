"""A phone that does not sleep as long as this computer is connected to it, and is left as it was.

A command of the phone's shell takes the means, reads until the connection ends, and gives it back. So a
host that dies, or a cable that is pulled, leaves no phone awake.
"""

from __future__ import annotations

import asyncio
import secrets
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal

from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.wire.stream import ByteStream
from crowdlearn_host.errors import FleetError

Means = Literal["wake lock", "screen", "none"]
"""A lock that keeps the processor awake, which a recent Android lends to its shell; the screen, which stays
on while the phone is charged; or neither, if the shell may not.
"""
LOCK = "cmd power set-wakelock {} PARTIAL_WAKE_LOCK"
SETTING = "global stay_on_while_plugged_in"
EVERY_CHARGER = 7
"""A mains charger (1), USB (2) and wireless charging (4)."""
HELD = b"held"
HOLD_SECONDS, RETURN_SECONDS = 20.0, 5.0
_POLL_SECONDS = 0.05


@asynccontextmanager
async def awake(device: AdbDevice, home: str = HOME) -> AsyncIterator[Means]:
    """Keep the phone awake for the block, by the means that is given. A note below `home` tells what it
    replaced.
    """
    folder = f"{home}/awake"
    means: Means = "none"
    stream: ByteStream | None = None
    with suppress(FleetError, TimeoutError):
        if stream := await _hold(device, _with_lock(folder)):
            means = "wake lock"
        elif (before := await _setting(device, folder)) and (
            stream := await _hold(device, _with_screen(folder, before))
        ):
            means = "screen"
    try:
        yield means
    finally:
        if stream is not None:
            stream.abort()
            if device.lost is None:
                with suppress(FleetError, TimeoutError):
                    await _wait_returned(device, folder)


async def _hold(device: AdbDevice, command: str) -> ByteStream | None:
    """Return the stream to a command, which holds the means until it is closed; None if the shell may not."""
    async with asyncio.timeout(HOLD_SECONDS):
        stream = await device.open(f"exec:{command}")
        said = b""
        try:
            while HELD not in said and (data := await stream.read()):
                said += data
        finally:
            if HELD not in said:
                stream.abort()
        return stream if HELD in said else None


def _with_lock(folder: str) -> str:
    # The lock counts who takes it: each command gives back its own, whoever else holds it.
    mark = secrets.token_hex(8)
    take, release = (f"{LOCK.format(verb)} >/dev/null 2>&1" for verb in ("acquire", "release"))
    return _command(folder, mark, take, f"{release}; {_mine(folder, mark)} && rm -rf {shlex.quote(folder)}")


def _with_screen(folder: str, before: str) -> str:
    # A setting has one value: a command that another one has followed leaves it alone.
    mark = secrets.token_hex(8)
    take = f"echo {before} >{shlex.quote(folder)}/before && settings put {SETTING} {EVERY_CHARGER}"
    back = f"settings delete {SETTING}" if before == "null" else f"settings put {SETTING} {before}"
    undo = f"{_mine(folder, mark)} && {back} && rm -rf {shlex.quote(folder)}"
    return _command(folder, mark, f"({take}) >/dev/null 2>&1", f"{undo}")


def _command(folder: str, mark: str, take: str, give_back: str) -> str:
    inner = shlex.quote(folder)
    hold = f"(echo {HELD.decode()}; cat >/dev/null; ({give_back}) >/dev/null 2>&1)"
    return f"mkdir -p {inner} && echo {mark} >{inner}/owner && {take} && {hold}"


def _mine(folder: str, mark: str) -> str:
    return f"grep -q {mark} {shlex.quote(folder)}/owner"


async def _setting(device: AdbDevice, folder: str) -> str:
    """Return the setting as the owner left it: a number, or `null` for none; "" if it cannot be read.

    A phone that was switched off in a run still has the run's own, and the note of what was before.
    """
    told = await device.shell(
        f"cat {shlex.quote(folder)}/before 2>/dev/null || settings get {SETTING} 2>/dev/null"
    )
    said = told.stdout.decode(errors="replace").strip()
    return said if said == "null" or (said.isascii() and said.isdigit()) else ""


async def _wait_returned(device: AdbDevice, folder: str) -> None:
    async with asyncio.timeout(RETURN_SECONDS):
        while (await device.shell(f"test -e {shlex.quote(folder)}")).exit_code == 0:
            await asyncio.sleep(_POLL_SECONDS)
