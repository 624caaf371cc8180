"""How many devices a run gets, of those that are there: enough, some more, and no later than a deadline."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class Cohort:
    """The devices that a run needs: `pieces` in each group, at least `least` and at most `most` groups, and
    `spares` times as many devices more. It waits for `wait` seconds for more than the least.
    """

    pieces: int
    least: int
    most: int
    spares: float
    wait: float

    @property
    def size(self) -> int:
        """Return devices of a group that is full."""
        return ceil(self.pieces * (1 + self.spares))

    @property
    def fewest(self) -> int:
        """Return devices without which the run cannot begin."""
        return self.least * self.pieces

    @property
    def seats(self) -> int:
        """Return devices that it takes at most."""
        return self.most * self.size

    def groups(self, devices: int) -> int:
        """Return groups into which so many devices are divided; 0 if they are too few."""
        if devices < self.fewest:
            return 0
        return max(self.least, min(self.most, devices // self.size))

    def begins(self, devices: int, waited: float) -> bool:
        """Return whether it is to begin with so many devices, which have been enough for `waited` seconds."""
        return devices >= self.seats or (devices >= self.fewest and waited >= self.wait)
