"""Augmentations of signals and other numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Augmentation, Samples


@dataclass(frozen=True)
class Noise(Augmentation):
    """Normal noise of standard deviation `std` on every number: the jitter of a sensor."""

    kind: ClassVar[str] = "noise"

    std: float = 0.05

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, ...] with noise."""
        return samples + np.float32(self.std) * draw.standard_normal(samples.shape, np.float32)


@dataclass(frozen=True)
class Scale(Augmentation):
    """A factor for each sample, between 1 - `most` and 1 + `most`: another gain, or contrast."""

    kind: ClassVar[str] = "scale"

    most: float = 0.1

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, ...], each times its factor."""
        return samples * (1 + _within(self.most, samples, draw))


@dataclass(frozen=True)
class Offset(Augmentation):
    """A number for each sample, between -`most` and `most`, that is added: another zero, or brightness."""

    kind: ClassVar[str] = "offset"

    most: float = 0.1

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, ...], each plus its number."""
        return samples + _within(self.most, samples, draw)


@dataclass(frozen=True)
class Shift(Augmentation):
    """A move along the last axis (time, or width), up to `most` positions; the value at the edge repeats."""

    kind: ClassVar[str] = "shift"
    axes: ClassVar[int] = 2
    takes: ClassVar[str] = "signals [channels, length] or maps [channels, height, width]"

    most: int = 4

    def misfit(self, sample: tuple[int, ...]) -> str:
        """Return why samples of this shape cannot be moved; empty if they can."""
        if len(sample) >= self.axes and self.most >= sample[-1]:
            return f"most {self.most} is not below their {sample[-1]} positions"
        return super().misfit(sample)

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, ..., positions], each moved."""
        by = draw.integers(-int(self.most), int(self.most) + 1, len(samples))
        last = samples.shape[-1]
        source = np.clip(np.arange(last) - by[:, None], 0, last - 1)
        between = (1,) * (samples.ndim - 2)
        return np.take_along_axis(samples, source.reshape(len(samples), *between, last), -1)


def _within(most: float, samples: Samples, draw: np.random.Generator) -> Samples:
    """Return a number between -most and most for each sample, float32 [rows, 1, ...]."""
    one = (len(samples), *(1,) * (samples.ndim - 1))
    return draw.uniform(-most, most, one).astype(np.float32)
