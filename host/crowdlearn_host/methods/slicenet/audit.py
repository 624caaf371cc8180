"""The audit of what groups share in the clear: whose upload moves the weights unlike those of the others, or
makes the loss larger.

An upload is compared with the newest one of every group. What looks like the others' is not found, and a
group may differ because its data do: the audit names, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import median
from typing import Literal

import numpy as np
from crowdlearn_device.protocol.frames import Floats

LEAST = 4
"""The groups of which a median tells something."""
TIMES = 4.0
"""The move of an upload is suspicious if it is so many times the median of all, or this part of it."""
MORE_WRONG, LARGER = 0.15, 1.5
"""A share of samples that an upload gets wrong is suspicious so much above the median of all; another loss
above so many times the median.
"""

LossOf = Callable[[Floats], float]
"""A function from weights of the whole model, float32 [weights], to their loss on the host's own samples: for
classes the share of them that they get wrong.
"""


@dataclass(frozen=True)
class Suspicion:
    """An upload of a group that is unlike the others': `value` beside the `median` of all groups."""

    group: int
    by: Literal["norm", "loss"]
    value: float
    median: float


@dataclass
class UploadAudit:
    """The norms of the moves of all groups' newest uploads, and their losses where `loss_of` is given: for
    `classes` shares of samples.
    """

    loss_of: LossOf | None = None
    classes: bool = True
    _norms: dict[int, float] = field(default_factory=dict)
    _losses: dict[int, float] = field(default_factory=dict)

    def take(self, group: int, before: Floats, upload: Floats) -> None:
        """Take a group's upload, and what the global model was before it: float32 [weights], both whole."""
        move = upload.astype(np.float64) - before
        self._norms[group] = _finite(float(np.sqrt(move @ move)))
        if self.loss_of is not None:
            self._losses[group] = _finite(self.loss_of(upload))

    def suspicions(self, groups: Collection[int]) -> list[Suspicion]:
        """Return what is suspicious of the newest uploads of `groups`; nothing while few groups are known."""
        if len(self._norms) < LEAST:
            return []
        found = []
        usual = median(self._norms.values())
        for group in sorted(groups):
            if usual and not usual / TIMES < self._norms[group] < usual * TIMES:
                found.append(Suspicion(group, "norm", self._norms[group], usual))
        if not self._losses:
            return found
        usual = median(self._losses.values())
        most = usual + (MORE_WRONG if self.classes else (LARGER - 1) * abs(usual))
        for group in sorted(groups):
            if self._losses[group] > most:
                found.append(Suspicion(group, "loss", self._losses[group], usual))
        return found


def _finite(value: float) -> float:
    """Return infinity in place of what is no number."""
    return value if isfinite(value) else inf
