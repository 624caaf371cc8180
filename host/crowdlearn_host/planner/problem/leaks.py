"""Leaks: how many of a dominator's samples a follower re-identifies by the sums that it gets, as measured.

A follower that owns neurons of a layer gets the layer's sums for them. Which part of the samples these sums
pick out of all devices' is measured: for each bundle by itself, and a few numbers of its neurons. A cap on
that part allows a follower so many neurons of each bundle; of several bundles together it allows as much as
of one, shared out. The dominator's own piece reveals nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .problem import Budget

BUDGET = "leak"
NONE = 0.5
"""Neurons of which one follower may own, where a single one tells too much."""


@dataclass(frozen=True)
class LeakCurve:
    """The part of samples re-identified by a follower that owns so many neurons of a bundle, ascending.
    Between two of the numbers that were measured the greater one counts.
    """

    neurons: tuple[int, ...] = ()
    reidentified: tuple[float, ...] = ()

    def of(self, neurons: int) -> float:
        """Return the part of samples that so many neurons re-identify, and fewer do not exceed."""
        least = min((n for n in self.neurons if n >= neurons), default=max(self.neurons, default=0))
        return max((y for n, y in self._measured if neurons and n <= least), default=0.0)

    def most(self, limit: float) -> float:
        """Return the most neurons that stay within a limit; NONE if one does not."""
        within = 0
        for n, y in self._measured:
            if y > limit:
                break
            within = n
        return float(within or NONE)

    @property
    def _measured(self) -> list[tuple[int, float]]:
        return list(zip(self.neurons, self.reidentified, strict=True))


@dataclass(frozen=True)
class Leaks:
    """The curve of every bundle, of sums in one form, and the `limit` that a plan keeps to.

    A bundle into which no sums cross has an empty curve. `labels` tells for every bundle which part of the
    labels an owner of its neurons reads, however few they are; a plan keeps to `label_limit`. Without
    `labels`, they are not capped.
    """

    curves: tuple[LeakCurve, ...]
    limit: float
    sums: Literal["plain", "masked"] = "plain"
    labels: tuple[float, ...] = ()
    label_limit: float = 1.0

    @property
    def budget(self) -> Budget:
        """Return the cap as a budget of a follower: all that the limit allows is 1."""
        each = [1 / curve.most(self.limit) if curve.neurons else 0.0 for curve in self.curves]
        for bundle, part in enumerate(self.labels):
            if part > self.label_limit:
                each[bundle] = 1 / NONE
        return Budget(
            BUDGET, "of all that max_leak allows", tuple(each), (0.0,) * len(each), 0.0, 1.0, hard=True
        )

    @property
    def levels(self) -> tuple[float, ...]:
        """Return the limits at which more becomes allowed, ascending, above this one."""
        found = {y for curve in self.curves for y in curve.reidentified if y > self.limit}
        return tuple(sorted(found))

    @property
    def label_levels(self) -> tuple[float, ...]:
        """Return the limits on labels at which more bundles become allowed, ascending, above this one."""
        return tuple(sorted({part for part in self.labels if part > self.label_limit}))
