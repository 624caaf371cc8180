"""A device whose energy is measured: its condition, what it can be made to do, and its meter."""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from crowdlearn_device.energy.meters import Meter
from crowdlearn_device.energy.readings import Power, Provenance, Reading, Used, integrated, used
from crowdlearn_device.energy.step_time import StepTime
from crowdlearn_device.errors import MeterError

from .meters.rails import RailsMeter, apart

SAMPLE_SECONDS = 0.5
"""The seconds between two readings of a meter that reports power only."""
Edge = Callable[[], Coroutine[Any, Any, None]]
"""A function that is awaited at the begin of a stretch, and another at its end, while the device rests."""


@dataclass(frozen=True)
class Condition:
    """The condition in which a device computes: battery in percent, degrees Celsius, and Android's thermal
    status (0: not throttled). None is what it does not tell.
    """

    charging: bool | None = None
    percent: int | None = None
    celsius: float | None = None
    thermal: int | None = None

    @property
    def problem(self) -> str:
        """Return why figures of this condition are dropped; or nothing."""
        if self.charging:
            return "charging"
        return "throttled" if self.thermal else ""


@dataclass(frozen=True)
class Program:
    """A program to run: its files by name, the hash of its manifest, MACs of a sample; `eager` is PyTorch,
    which has no files. `role` is its part in a plan of `pieces`, whose piece number `piece` it is; `traffic`
    are bytes sent and received for a sample by wire type.
    """

    name: str
    macs: float
    batch: int
    files: Mapping[str, bytes]
    sha256: str = ""
    piece: int = 0
    pieces: int = 1
    traffic: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    eager: Callable[[], None] | None = None


class Subject(ABC):
    """A device under measurement; `unread` tells of its meters that cannot be read why not, by name."""

    name: str
    model: str
    virtual: bool
    time_provenance: Provenance
    time_source: str
    has_radio: bool
    meter: Meter | None = None
    unread: Mapping[str, str] = MappingProxyType({})
    pause = 0.1
    """Seconds of rest before and after work, in which the meter is read."""
    peak_gflops: float | None = None

    @abstractmethod
    async def condition(self) -> Condition:
        """Return the condition now."""

    @abstractmethod
    async def install(self, programs: list[Program]) -> None:
        """Have the programs there that it can run."""

    def runs(self, program: Program) -> bool:
        """Return whether it can run this program."""
        return program.eager is None

    @abstractmethod
    async def step(self, program: Program, seconds: float, begin: Edge, end: Edge) -> StepTime:
        """Run training steps for some seconds. Raises FleetError if it cannot."""

    async def move(self, up: bool, seconds: float) -> int:
        """Move bytes from the device (`up`) or to it for some seconds; the count of them."""
        raise NotImplementedError

    async def choose_meter(self, meters: list[Meter]) -> None:
        """Take the first of the meters that can be read, and see how long a reading takes."""
        self.meter = meters[0] if meters else None
        if self.meter is not None:
            began = time.monotonic()
            await self.meter.read()
            self.pause = max(self.pause, 2 * (time.monotonic() - began))


class Recording:
    """The energy of a stretch, by a subject's meter: `begin` and `end` are its edges."""

    used: Used | None = None
    parts: tuple[float, float, float] | None = None
    """Joules for computing, the radio and the rest, where the meter tells rails apart."""
    why = ""
    """Why there is no energy."""

    def __init__(self, subject: Subject) -> None:
        self._meter = subject.meter
        self._samples: list[Power] = []
        self._first: Reading | Power | None = None
        self._rails: dict[str, float] = {}
        self._sampling: asyncio.Task[None] | None = None
        self.began = self.ended = 0.0

    async def begin(self) -> None:
        """Read the meter, and go on reading if it tells power only; called again, it begins anew."""
        await self._stop_sampling()
        self.began, self.why = time.monotonic(), ""
        if self._meter is None:
            self.why = "no meter"
            return
        try:
            self._first = await self._meter.read()
        except MeterError as error:
            self.why = str(error)
            return
        if isinstance(self._meter, RailsMeter):
            self._rails = dict(self._meter.rails)
        if isinstance(self._first, Power):
            self._samples = [self._first]
            self._sampling = asyncio.create_task(self._sample())

    async def end(self) -> None:
        """Read the meter again: what was used between."""
        self.ended = time.monotonic()
        await self._stop_sampling()
        if self.why or self._meter is None or self._first is None:
            return
        try:
            last = await self._meter.read()
            if isinstance(last, Power):
                self.used = integrated([*self._samples, last])
            elif isinstance(self._first, Reading):
                self.used = used(self._first, last)
        except MeterError as error:
            self.why = str(error)
            return
        if isinstance(self._meter, RailsMeter):
            first = self._rails
            rails = {name: joules - first.get(name, joules) for name, joules in self._meter.rails.items()}
            self.parts = apart(rails)

    async def _stop_sampling(self) -> None:
        if self._sampling is not None:
            self._sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sampling
            self._sampling = None

    async def _sample(self) -> None:
        while self._meter is not None:
            await asyncio.sleep(SAMPLE_SECONDS)
            try:
                reading = await self._meter.read()
            except MeterError as error:
                self.why = str(error)
                return
            if isinstance(reading, Power):
                self._samples.append(reading)
