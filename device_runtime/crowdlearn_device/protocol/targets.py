"""Targets: what a loss compares scores with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED = -100
"""The class of a position that does not count, as in PyTorch."""


@dataclass(frozen=True)
class TargetSpec:
    """The target with which a loss compares the scores of one sample: classes from 0 (int64), one or as many
    as `shape` says, or numbers (float32) of this shape from `least` to `most`.

    Of several classes those that are IGNORED do not count. `weights` are those of the classes, if they count
    differently.
    """

    dtype: str = "int64"
    shape: tuple[int, ...] = ()
    least: float | None = None
    most: float | None = None
    weights: tuple[float, ...] = ()

    @property
    def are_classes(self) -> bool:
        """Return True if a target is a class, or several."""
        return self.dtype == "int64"

    @property
    def are_sequences(self) -> bool:
        """Return True if a target is several classes."""
        return self.are_classes and bool(self.shape)

    def weight(self, targets: NDArray[Any]) -> float:
        """Return the weight of these targets in a mean: samples, positions, or the weights of their classes.

        Targets are int64 or float32 [N, *shape].
        """
        if not self.are_sequences and not self.weights:
            return float(len(targets))
        counted = targets[targets != IGNORED]
        return float(np.asarray(self.weights)[counted].sum()) if self.weights else float(counted.size)


CLASSES = TargetSpec()
