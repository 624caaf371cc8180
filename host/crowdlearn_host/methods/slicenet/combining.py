"""The combination of a weight's uploads into one value, which may withstand a few wrong ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import floor
from typing import ClassVar

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

TRIMMED = 0.25
"""The share of uploads that a trimmed mean leaves out at either end."""


class Combination(ABC):
    """A combination of a window's uploads, weight by weight."""

    name: ClassVar[str]

    @abstractmethod
    def of(self, uploads: Floats, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return float64 [n] of uploads float32 [omega, n], of which the first `counts` [n] are there: 1 or
        more of each.
        """


class Mean(Combination):
    """The mean, as in the paper: one wrong upload moves it as far as it likes."""

    name = "mean"

    def of(self, uploads: Floats, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        there = np.arange(len(uploads))[:, None] < counts
        return np.where(there, uploads, 0).sum(0, dtype=np.float64) / counts


class Trimmed(Combination):
    """The mean without the quarter of uploads that are least, and the quarter that are largest."""

    name = "trimmed"
    share: ClassVar[float] = TRIMMED

    def of(self, uploads: Floats, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        rank = np.arange(len(uploads))[:, None]
        ordered = np.sort(np.where(rank < counts, uploads.astype(np.float64), np.inf), axis=0)
        cut = np.minimum((self.share * counts).astype(np.int64), (counts - 1) // 2)
        kept = (rank >= cut) & (rank < counts - cut)
        mean: NDArray[np.float64] = np.where(kept, ordered, 0).sum(0) / (counts - 2 * cut)
        return mean


class Median(Trimmed):
    """The median: right while fewer than half of the uploads are wrong."""

    name = "median"
    share = 0.5


COMBINATIONS: dict[str, Combination] = {each.name: each for each in (Mean(), Trimmed(), Median())}
"""The combinations by name."""


def most_wrong(name: str, uploads: int) -> int:
    """Return how many of so many uploads may be wrong before they can move the combination at will."""
    if name == "mean":
        return 0
    return (uploads - 1) // 2 if name == "median" else floor(TRIMMED * uploads)
