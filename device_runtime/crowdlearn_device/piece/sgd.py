"""Stochastic gradient descent on a piece's own arrays, in place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from crowdlearn_device.protocol.frames import Floats

BLOCK = 1 << 16
"""Floats that are worked on at once: they stay in a core's cache, and so does what lies between."""


def descend(
    parameter: Floats,
    gradient: Floats,
    velocity: Floats | None,
    accumulated: Floats | None,
    *,
    rate: np.float32,
    momentum: float,
    weight_decay: float,
) -> None:
    """One step as torch.optim.SGD takes it. `gradient` is used up; `accumulated` gains its magnitudes.

    All are float32 [...] of one shape.
    """
    for block in _blocks(parameter):
        weights, slope = parameter[block], gradient[block]
        if accumulated is not None:
            accumulated[block] += np.abs(slope)
        if weight_decay:
            slope += weights * np.float32(weight_decay)
        if velocity is not None:
            moving = velocity[block]
            moving *= np.float32(momentum)
            moving += slope
            slope[...] = moving
        slope *= rate
        weights -= slope


def _blocks(array: Floats) -> Iterator[slice]:
    """Yield stretches of dimension 0 of about BLOCK floats."""
    step = max(1, BLOCK * len(array) // max(array.size, 1))
    for start in range(0, len(array), step):
        yield slice(start, start + step)
