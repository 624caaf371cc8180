"""How far a host's loop is behind, and whether the host takes on more."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import deque

EVERY_SECONDS = 0.1
LOOKS = 30
"""Looks, the last ones, by whose median a host is judged: a moment does not count."""
MOST_LATE = 0.25
"""Seconds by which the loop may be late, in the median: devices are asked and answered in seconds."""
AGAIN_SECONDS = 5.0, 15.0
"""The shortest and the longest pause after which devices that are put off come again."""


class Pressure:
    """The lateness of a loop, in seconds: `longest` is the most that was seen. `longest_own` is the most of
    it in which the loop's thread computed, and did not wait for a processor or a disk. `put_off` counts
    devices that were sent away. A host that is too late takes on no new groups until it is half as late;
    those that have begun go on, slower.
    """

    def __init__(self, most_late: float = MOST_LATE) -> None:
        self.most_late = most_late
        self.longest = self.longest_own = 0.0
        self.put_off = 0
        self._late: deque[float] = deque(maxlen=LOOKS)
        self._heavy = False

    @property
    def late(self) -> float:
        """Return by how much the loop was late lately."""
        return statistics.median(self._late) if self._late else 0.0

    @property
    def heavy(self) -> bool:
        """Return True if nothing new is taken on."""
        return self._heavy

    def look(self, late: float, computed: float = math.inf) -> None:
        """Note that the loop was late by so much, and its thread had computed for `computed` seconds since
        the last look.
        """
        self._late.append(late)
        self.longest = max(self.longest, late)
        self.longest_own = max(self.longest_own, min(late, computed))
        if len(self._late) == LOOKS:
            self._heavy = self.late > (self.most_late / 2 if self._heavy else self.most_late)

    async def watching(self) -> None:
        """Look again and again."""
        loop = asyncio.get_running_loop()
        while True:
            due, computed = loop.time() + EVERY_SECONDS, time.thread_time()
            await asyncio.sleep(EVERY_SECONDS)
            self.look(loop.time() - due, time.thread_time() - computed)
