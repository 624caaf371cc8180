"""How long things take in a group, learned from the run: who is silent, stuck, or slow.

The coordinator has no clock: time comes with its ticks, and everything here is as fine as they are. Only how
long devices compute is told by themselves.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from statistics import median

REMEMBERED = 20
"""Stages whose durations make the deadline of the next."""
DEADLINE = 8.0
"""A stage may take this many times the longest of them."""
SLOW = 4.0
"""A device is slow where it computes this many times as long as others do on the same piece,"""
LONG = 5
"""and did so for as many reports in a row."""


class Pace:
    """The group's sense of time. `floor` is the shortest deadline, in seconds."""

    def __init__(self, floor: float) -> None:
        self.slow: set[int] = set()
        self.overdue = False
        self._floor = floor
        self._now = 0.0
        self._stage: tuple[object, ...] = ()
        self._since = 0.0
        self._took: dict[object, deque[float]] = {}
        self._heard: dict[int, float] = {}
        self._asked: dict[int, float] = {}
        self._busy: dict[tuple[int, int], deque[float]] = {}
        self._why: dict[int, str] = {}

    def heard(self, device: int) -> None:
        self._heard[device] = self._now
        if self._asked:
            self._asked.pop(device, None)

    def gone(self, device: int) -> None:
        for times in (self._heard, self._asked):
            times.pop(device, None)

    def tick(self, now: float, stage: tuple[object, ...], *, working: bool) -> None:
        """Note the time. `stage` is what is being done, its kind first; if it has changed, the last one is
        over.
        """
        if stage != self._stage:
            if self._stage:
                durations = self._took.setdefault(self._stage[0], deque(maxlen=REMEMBERED))
                durations.append(now - self._since)
            self._stage, self._since = stage, now
        if self._now == 0.0:
            self._heard = dict.fromkeys(self._heard, now)
        self._now = now
        self.overdue = working and now - self._since > self.deadline(stage[0])

    def restart(self) -> None:
        """Give the stage under way its time once more."""
        self._since, self.overdue = self._now, False

    def deadline(self, kind: object) -> float:
        """Return seconds that a stage of this kind may take."""
        return max(self._floor, DEADLINE * max(self._took.get(kind, ()), default=0.0))

    def to_ask(self, devices: Iterable[int]) -> list[int]:
        """Return devices not heard of for half the time they have, and not asked since."""
        patience = self._patience / 2
        quiet = [
            d
            for d in sorted(devices)
            if d not in self._asked and self._now - self._heard.get(d, self._now) > patience
        ]
        self._asked.update(dict.fromkeys(quiet, self._now))
        return quiet

    def silent(self, devices: Iterable[int]) -> list[int]:
        """Return devices that were asked and did not answer in time."""
        patience = self._patience / 2
        asked = sorted(self._asked.keys() & set(devices))
        return [d for d in asked if self._now - self._asked[d] > patience]

    @property
    def _patience(self) -> float:
        return max([self._floor, *(self.deadline(kind) for kind in self._took)])

    def worked(self, device: int, piece: int, seconds: float) -> None:
        """Note a device's report of how long it computed since its last report."""
        if not (math.isfinite(seconds) and seconds > 0):
            return
        self._busy.setdefault((device, piece), deque(maxlen=LONG)).append(seconds)
        own = self._busy[device, piece]
        others = [s for (d, p), times in self._busy.items() if p == piece and d != device for s in times]
        if len(own) < LONG or len(others) < LONG:
            return
        usual = median(others)
        if min(own) > SLOW * usual:
            self.slow.add(device)
            self._why[device] = f"computes {median(own) / usual:.1f} times as long as others on its piece"
        elif median(own) < SLOW / 2 * usual:
            self.slow.discard(device)

    def why(self, device: int) -> str:
        return self._why.get(device, "")
