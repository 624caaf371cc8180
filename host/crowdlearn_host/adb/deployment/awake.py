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
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Keeper:
    """A command of the phone's shell that does `take`, and `undo` once its input ends.

    It moves the file `mark` away before it undoes, as this computer does if the phone ended the command. Each
    undoes only if it could. `first` comes before the mark, and may remove those of earlier commands.
    """

    folder: str
    mark: str
    take: str
    undo: str
    first: str = "true"

    @property
    def command(self) -> str:
        """Return the command; it writes HELD once it holds."""
        take = f"({self.take} || (rm -f {self.mark}; rmdir {self.folder}; false))"
        begin = f"mkdir -p {self.folder} && {self.first} && touch {self.mark} && {take}"
        hold = f"(echo {HELD.decode()}; cat >/dev/null; ({self.give_back}) >/dev/null 2>&1)"
        return f"({begin}) >/dev/null 2>&1 && {hold}"

    @property
    def give_back(self) -> str:
        """Return the command that undoes, once."""
        over = f"{self.mark}.over"
        return f"mv {self.mark} {over} && {self.undo}; rm -f {over}; rmdir {self.folder}"

    @property
    def held(self) -> str:
        """Return the command that succeeds until all is undone."""
        return f"test -e {self.mark} || test -e {self.mark}.over"


@asynccontextmanager
async def awake(device: AdbDevice, home: str = HOME) -> AsyncIterator[Means]:
    """Keep the phone awake for the block, by the means that is given. A note below `home` tells what it
    replaced.
    """
    folder = shlex.quote(f"{home}/awake")
    means: Means = "none"
    stream: ByteStream | None = None
    keeper = _lock(folder)
    with suppress(FleetError, TimeoutError):
        if stream := await _hold(device, keeper):
            means = "wake lock"
        elif before := await _setting(device, folder):
            keeper = _screen(folder, before)
            if stream := await _hold(device, keeper):
                means = "screen"
    try:
        yield means
    finally:
        if stream is not None:
            stream.abort()
            if device.lost is None:
                with suppress(FleetError):
                    await _given_back(device, keeper)


async def _hold(device: AdbDevice, keeper: _Keeper) -> ByteStream | None:
    """Return the stream to a keeper, which holds until it is closed; None if the shell may not."""
    async with asyncio.timeout(HOLD_SECONDS):
        stream = await device.open(f"exec:{keeper.command}")
        output = b""
        try:
            while HELD not in output and (data := await stream.read()):
                output += data
        finally:
            if HELD not in output:
                stream.abort()
        return stream if HELD in output else None


def _lock(folder: str) -> _Keeper:
    # The lock counts who takes it: each keeper gives back its own, whoever else holds it.
    return _Keeper(folder, _new_mark(folder), LOCK.format("acquire"), LOCK.format("release"))


def _screen(folder: str, before: str) -> _Keeper:
    # A setting has one value: the last keeper puts it back, and removes the marks of earlier ones.
    note = f"{folder}/before"
    take = f"echo {before} >{note} && settings put {SETTING} {EVERY_CHARGER} || (rm -f {note}; false)"
    back = f"settings delete {SETTING}" if before == "null" else f"settings put {SETTING} {before}"
    return _Keeper(folder, _new_mark(folder), take, f"{back} && rm -f {note}", f"rm -f {folder}/*.mark")


def _new_mark(folder: str) -> str:
    return f"{folder}/{secrets.token_hex(8)}.mark"


async def _setting(device: AdbDevice, folder: str) -> str:
    """Return the setting as the owner left it: a number, or `null` for none; "" if it cannot be read.

    A phone that was switched off in a run still has the run's own, and the note of what was before.
    """
    result = await device.shell(f"cat {folder}/before 2>/dev/null || settings get {SETTING} 2>/dev/null")
    text = result.stdout.decode(errors="replace").strip()
    return text if text == "null" or (text.isascii() and text.isdigit()) else ""


async def _given_back(device: AdbDevice, keeper: _Keeper) -> None:
    """Wait until a keeper has undone what it did, and else undo it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(RETURN_SECONDS):
            while (await device.shell(keeper.held)).exit_code == 0:
                await asyncio.sleep(_POLL_SECONDS)
            return
    await device.shell(keeper.give_back)
