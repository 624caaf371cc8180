"""Augmentations of images, which are maps [channels, height, width]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .base import Augmentation, Samples

MAPS = "maps [channels, height, width]"


@dataclass(frozen=True)
class Crop(Augmentation):
    """A window of the image's own size, somewhere in the image with `padding` zeros on each side."""

    kind: ClassVar[str] = "crop"
    axes: ClassVar[int] = 3
    takes: ClassVar[str] = MAPS

    padding: int = 4

    def misfit(self, sample: tuple[int, ...]) -> str:
        """Return why samples of this shape cannot be cropped; empty if they can."""
        if len(sample) == 3 and self.padding >= min(sample[1:]):
            return f"padding {self.padding} is not below their height and width"
        return super().misfit(sample)

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, C, H, W], each moved, with zeros where it was not."""
        by = int(self.padding)
        height, width = samples.shape[2:]
        around = np.pad(samples, ((0, 0), (0, 0), (by, by), (by, by)))
        windows = np.lib.stride_tricks.sliding_window_view(around, (height, width), axis=(2, 3))
        tops, lefts = draw.integers(0, 2 * by + 1, (2, len(samples)))
        return np.ascontiguousarray(windows[np.arange(len(samples)), :, tops, lefts])


@dataclass(frozen=True)
class Flip(Augmentation):
    """Left becomes right, in as many samples as `probability` says."""

    kind: ClassVar[str] = "flip"
    axes: ClassVar[int] = 3
    takes: ClassVar[str] = MAPS

    probability: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probability > 1:
            raise ValueError(f"probability of flip is {self.probability}; give a number from 0 to 1")

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, C, H, W], some of them mirrored."""
        mirrored = draw.random(len(samples)) < self.probability
        return np.where(mirrored[:, None, None, None], samples[..., ::-1], samples)


@dataclass(frozen=True)
class Erase(Augmentation):
    """A square of `size` positions a side becomes zeros, where it falls on the image."""

    kind: ClassVar[str] = "erase"
    axes: ClassVar[int] = 3
    takes: ClassVar[str] = MAPS

    size: int = 8

    def applied(self, samples: Samples, draw: np.random.Generator) -> Samples:
        """Return the samples float32 [rows, C, H, W], each with a square of zeros around a position."""
        inside = []
        for length in samples.shape[2:]:
            first = draw.integers(0, length, len(samples)) - int(self.size) // 2
            at = np.arange(length) - first[:, None]
            inside.append((at >= 0) & (at < self.size))
        square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
        return np.where(square, np.float32(0), samples)
