"""An optimizer's step on a piece's own arrays, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.protocol.frames import Floats

BLOCK = 1 << 16
"""Floats that are worked on at once: they stay in a core's cache, and so does what lies between."""


def descend(
    optimizer: Optimizer,
    parameter: Floats,
    gradient: Floats,
    slots: Sequence[Floats],
    accumulated: Floats | None,
    numbers: Mapping[str, np.float32],
    factor: float = 1.0,
) -> None:
    """Take one step in place. `accumulated` gains the gradient's magnitudes, before it is multiplied by
    `factor`.

    All are float32 [...] of one shape.
    """
    for block in _blocks(parameter):
        slope = gradient[block]
        if accumulated is not None:
            accumulated[block] += np.abs(slope)
        if factor != 1:
            slope = slope * np.float32(factor)
        kept = [slot[block] for slot in slots]
        for old, new in zip(
            (parameter[block], *kept), optimizer.step(parameter[block], slope, kept, numbers), strict=True
        ):
            old[...] = new


def _blocks(array: Floats) -> Iterator[slice]:
    """Yield stretches of dimension 0 of about BLOCK floats."""
    step = max(1, BLOCK * len(array) // max(array.size, 1))
    for start in range(0, len(array), step):
        yield slice(start, start + step)
