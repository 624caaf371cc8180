"""A phone serves one run at a time: which one lies on the phone, and is renewed while that run lasts.

The word is a file in HOME/claim, a folder that only one host can make. A host that dies leaves it there; the
next one sees that nothing renews it, and takes the phone over.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.errors import FleetError

EVERY_SECONDS = 10.0
PATIENCE = 2.5
"""Intervals without a renewal after which the host that holds a phone counts as gone."""
LONGEST_SECONDS = 60.0
"""The longest time, in seconds, that a host waits for a renewal, whatever interval the holder announces."""


@dataclass(frozen=True)
class Holder:
    """The run that holds a phone: its name, its id (hex), its host's name, the seconds between two renewals
    and how often it was renewed.
    """

    run: str
    id: str
    host: str
    every: float = EVERY_SECONDS
    renewed: int = 0

    @classmethod
    def here(cls, run: str, run_id: bytes, every: float = EVERY_SECONDS) -> Holder:
        """Return a run of this computer as a holder."""
        return cls(run, run_id.hex(), socket.gethostname(), every)

    def described(self) -> str:
        """Return the run in words."""
        return f"the run {self.run!r} of {self.host}"


class Claim:
    """A run's claim on one phone; held as long as the block that it is entered for."""

    def __init__(self, device: AdbDevice, holder: Holder) -> None:
        self.lost: str | None = None
        """Why the phone is no longer this run's; None while it is."""
        self._device, self._holder = device, holder
        self._folder = f"{HOME}/claim"
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Claim:
        """Take the phone. Raises FleetError that names the run that holds it."""
        folder = shlex.quote(self._folder)
        made = await self._device.shell(f"mkdir -p {shlex.quote(HOME)} && mkdir {folder}")
        if made.exit_code:
            other = await self._read()
            mine = other is not None and other.id == self._holder.id
            if not mine and await self._lives(other):
                raise self._refused(await self._read())
        await self._write()
        if made.exit_code:  # somebody else may have taken it over at the same moment
            await asyncio.sleep(min(self._holder.every, 1.0) / 4)
        if (now := await self._read()) is not None and now.id != self._holder.id:
            raise self._refused(now)
        self._renewing = asyncio.create_task(self._renew())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._device.lost is None and self.lost is None:
            with suppress(FleetError):
                await self._device.shell(f"rm -rf {shlex.quote(self._folder)}")

    def _refused(self, other: Holder | None) -> FleetError:
        run = "another run" if other is None else other.described()
        return FleetError(
            f"{self._device.serial} serves {run}; wait for its end, stop it, or leave this phone out"
        )

    async def _lives(self, other: Holder | None) -> bool:
        """Return whether the other run renews its claim, or writes it, while this one waits."""
        every = self._holder.every if other is None else other.every
        wait = min(max(every, 0.0), LONGEST_SECONDS / PATIENCE)
        deadline = asyncio.get_running_loop().time() + PATIENCE * wait
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(wait / 10)
            if await self._read() != other:
                return True
        return False

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._holder.every)
            with suppress(FleetError):
                now = await self._read()
                if now is not None and now.id != self._holder.id:
                    self.lost = f"{self._device.serial} was taken over by {now.described()}"
                    return
                await self._write()

    async def _write(self) -> None:
        self._holder = replace(self._holder, renewed=self._holder.renewed + 1)
        await self._device.push(json.dumps(asdict(self._holder)).encode(), f"{self._folder}/holder")

    async def _read(self) -> Holder | None:
        """Return the holder that the phone names; None if there is none that can be read."""
        output = (await self._device.shell(f"cat {shlex.quote(self._folder)}/holder")).stdout
        try:
            content = json.loads(output)
            run, run_id, host = (str(content[name])[:100] for name in ("run", "id", "host"))
            return Holder(run, run_id, host, float(content["every"]), int(content["renewed"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None
