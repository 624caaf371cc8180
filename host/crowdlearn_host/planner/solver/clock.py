"""Time limits in processor seconds, so that a busy machine plans as well as an idle one."""

from __future__ import annotations

import time
from dataclasses import dataclass

PATIENCE = 4.0
"""Seconds by the clock that a processor second is waited for, at most."""


@dataclass(frozen=True)
class Deadline:
    """The moment when so many processor seconds are used, or PATIENCE times as many have passed.

    `processor` is on the clock of time.process_time(), `wall` on that of time.monotonic().
    """

    processor: float
    wall: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the deadline `seconds` processor seconds from now."""
        return cls(time.process_time() + seconds, time.monotonic() + PATIENCE * seconds)

    @property
    def left(self) -> float:
        """Return processor seconds until then; negative when it has passed."""
        return min(self.processor - time.process_time(), (self.wall - time.monotonic()) / PATIENCE)

    def sooner(self, seconds: float) -> Deadline:
        """Return this deadline, `seconds` processor seconds earlier."""
        return Deadline(self.processor - seconds, self.wall - PATIENCE * seconds)


@dataclass(frozen=True)
class Stopwatch:
    """Seconds since `start`: by the clock, and of this process's processor time."""

    processor: float
    wall: float

    @classmethod
    def start(cls) -> Stopwatch:
        """Return a stopwatch that runs from now on."""
        return cls(time.process_time(), time.monotonic())

    @property
    def seconds(self) -> float:
        """Return seconds by the clock."""
        return time.monotonic() - self.wall

    @property
    def processor_seconds(self) -> float:
        """Return processor seconds, of all threads together."""
        return time.process_time() - self.processor
