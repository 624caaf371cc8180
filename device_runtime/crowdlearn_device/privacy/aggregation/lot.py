"""The weights that all devices share in a round: a public lot, the same for each, whatever moved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 16
"""Positions that are drawn at a time, so that a device draws for its own stretches alone."""


def drawn(seed: int, number: int, theta: float, start: int, stop: int) -> npt.NDArray[np.bool_]:
    """Return whether each position at [start, stop) of the vector of weights is in the lot of round `number`,
    each with probability `theta`: bool [stop - start].
    """
    if theta >= 1:
        return np.ones(stop - start, np.bool_)
    found = np.zeros(stop - start, np.bool_)
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        first = block * BLOCK
        a, b = max(start, first), min(stop, first + BLOCK)
        lots = np.random.default_rng((seed, number, 24, block)).random(BLOCK)
        found[a - start : b - start] = lots[a - first : b - first] < theta
    return found
