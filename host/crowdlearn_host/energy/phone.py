"""A phone over adb, real or virtual, as a subject of measurement."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from crowdlearn_device.energy.meters import readable
from crowdlearn_device.energy.readings import Provenance
from crowdlearn_device.energy.step_time import READY, StepTime
from crowdlearn_device.errors import MeterError

from crowdlearn_host.adb.carriers.silence import SILENCE_SECONDS, silence_reported
from crowdlearn_host.adb.deployment.runtimes import shell_runtime
from crowdlearn_host.adb.deployment.shell import HOME, FileStore
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.devices.discovery import Found, connect
from crowdlearn_host.devices.facts import THERMAL_NAMES, DeviceFacts, read_facts
from crowdlearn_host.devices.ways.registry import WAYS
from crowdlearn_host.errors import FleetError

from .meters import METERS
from .subject import Condition, Edge, Program, Subject

FOLDER = f"{HOME}/measured"
MOVED = f"{HOME}/moved"
MOVED_BYTES = 1 << 18
FLOPS_A_CYCLE = 8
"""The work of a core: one fused multiply-add of 128 bits a cycle (assumed; big cores have two pipes or
more).
"""
MOST_SAID = 1 << 16
MOST_PAUSE = 8.0
"""Seconds of rest that a slow meter is given."""


class PhoneSubject(Subject):
    """A connected phone with its facts, reached by a `way` of discovery."""

    time_source = "the phone's monotonic clock"

    def __init__(self, device: AdbDevice, facts: DeviceFacts, way: str) -> None:
        self._device, self.facts = device, facts
        self.name, self.virtual = facts.name, facts.virtual
        self.model = f"{facts.manufacturer} {facts.model}".strip()
        self.has_radio = WAYS[way].uses_radio
        self.time_provenance = Provenance.MEASURED
        if facts.virtual:
            self.time_provenance = Provenance.EMULATED
            self.time_source = "this computer's time, for a virtual phone"
        self.peak_gflops = FLOPS_A_CYCLE * sum(facts.core_mhz) / 1e3 or None
        self._command: tuple[str, ...] = ()

    async def condition(self) -> Condition:
        facts = await read_facts(self._device)
        thermal = THERMAL_NAMES.index(facts.thermal) if facts.thermal else None
        return Condition(facts.charging, facts.battery_percent, facts.celsius, thermal)

    async def check_unplugged(self) -> None:
        """Raise FleetError if it is on a charger."""
        if (await self.condition()).charging:
            raise FleetError(
                f"{self._device.serial} is on a charger: what it draws cannot be measured; unplug it and "
                "reach it by adb over Wi-Fi, or use a hub that cuts the power"
            )

    async def meet_meter(self, wanted: str = "") -> None:
        """Take the meter of that name, or the first that can be read. Raises MeterError if it cannot."""
        names = [wanted] if wanted else list(METERS)
        made = {
            name: partial(METERS[name], self._device, self.facts.manufacturer, virtual=self.virtual)
            for name in names
        }
        found, self.unread = await readable(made)
        if wanted and not found:
            raise MeterError(f"{self.name}: {self.unread[wanted]}")
        await self.choose_meter(found)

    async def install(self, programs: list[Program]) -> None:
        self._command = (await shell_runtime(self._device)).command
        files = {name: content for each in programs for name, content in each.files.items()}
        await FileStore(self._device, FOLDER).install(files)
        if self.has_radio:
            await self._device.push(os.urandom(MOVED_BYTES), MOVED)

    async def step(self, program: Program, seconds: float, begin: Edge, end: Edge) -> StepTime:
        words = [*self._command, "measure", "--programs", FOLDER, "--program", program.sha256]
        words += ["--seconds", str(seconds), "--threads", "1"]
        while self.pause <= MOST_PAUSE:
            timed = await self._tried([*words, "--pause", str(round(self.pause, 2))], seconds, begin, end)
            if timed is not None:
                return timed
            self.pause *= 2
        raise FleetError(
            f"{self._device.serial}: its meter takes more than {MOST_PAUSE:.0f} s; use another meter"
        )

    async def _tried(self, words: Sequence[str], seconds: float, begin: Edge, end: Edge) -> StepTime | None:
        """Return the time of steps; None if they had begun before the meter was read."""
        output = ""
        lines = _lines(self._device, shlex.join(words), seconds + SILENCE_SECONDS)
        with silence_reported(self._device.serial, "a line of crowdlearn-device measure"):
            async with contextlib.aclosing(lines):
                async for line in lines:
                    if line == READY:
                        began = time.monotonic()
                        await begin()
                        if time.monotonic() - began > self.pause:
                            return None
                    elif line.startswith("{"):
                        await end()
                        return _step_time(self._device.serial, line)
                    else:
                        output = line
        why = output[:200] or "it says nothing"
        raise FleetError(f"{self._device.serial}: crowdlearn-device measure fails: {why}")

    async def move(self, up: bool, seconds: float) -> int:
        ends, count = time.monotonic() + seconds, 0
        content = os.urandom(MOVED_BYTES)
        while time.monotonic() < ends:
            if up:
                await self._device.pull(MOVED)
            else:
                await self._device.push(content, MOVED)
            count += MOVED_BYTES
        return count

    async def tidy(self) -> None:
        """Take away what the measurement brought, but for the runtime."""
        with contextlib.suppress(FleetError):
            await self._device.shell(f"rm -rf {FOLDER} {MOVED}")

    @asynccontextmanager
    async def unplugged(self) -> AsyncIterator[None]:
        """Take a virtual phone off its charger for the length of a block; a real one is left as it is."""
        takes = self.virtual and (await self.condition()).charging
        if takes:
            await self._device.shell("dumpsys battery unplug")
        try:
            yield
        finally:
            if takes:
                with contextlib.suppress(FleetError):
                    await self._device.shell("dumpsys battery reset")


@asynccontextmanager
async def phone_subject(found: Found, key: Path | None = None) -> AsyncIterator[PhoneSubject]:
    """Connect to a found phone, for the length of a block; a virtual one is off its charger. Raises
    FleetError.
    """
    async with await connect(found, key=key) as device:
        subject = PhoneSubject(device, await read_facts(device), found.way)
        async with subject.unplugged():
            try:
                yield subject
            finally:
                await subject.tidy()


async def _lines(device: AdbDevice, command: str, silence: float) -> AsyncGenerator[str]:
    """Yield the lines that a command writes, as it writes them. Raises TimeoutError after so many seconds
    without one.
    """
    stream = await device.open(f"exec:{command}")
    pending = b""

    async def read() -> bytes:
        async with asyncio.timeout(silence):
            return await stream.read()

    try:
        while data := await read():
            *whole, pending = (pending + data).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").strip()
            if len(pending) > MOST_SAID:
                raise FleetError(f"{device.serial}: a line of more than {MOST_SAID} bytes")
        if pending:
            yield pending.decode(errors="replace").strip()
    finally:
        stream.abort()


def _step_time(serial: str, line: str) -> StepTime:
    try:
        content = json.loads(line)
        timed = StepTime(**content)
        if timed.steps < 1 or not 0 < timed.seconds < float("inf"):
            raise ValueError("no steps, or no time")
    except (ValueError, TypeError) as error:
        raise FleetError(f"{serial}: crowdlearn-device measure answered {line[:200]!r}: {error}") from error
    return timed
