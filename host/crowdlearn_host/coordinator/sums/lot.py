"""The vector of a secure sum: the weights that are drawn for its round, and the part that a piece owns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from crowdlearn_device.privacy.aggregation.masks import Ranges
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.sharing.selection import stretches
from crowdlearn_device.state.piece_state import Neurons
from numpy.typing import NDArray


class Lot:
    """The positions, in the vector of all weights, that are summed in round `number`: int64 [n], increasing.

    `neurons` are those of the whole network by layer.
    """

    def __init__(
        self,
        arrays: Sequence[ArraySpec],
        neurons: tuple[Neurons, ...],
        seed: int,
        number: int,
        theta: float,
    ) -> None:
        self._arrays = arrays
        found = [
            np.flatnonzero(part.lot(seed, number, theta)) + part.start for part in stretches(arrays, neurons)
        ]
        self.positions: NDArray[np.int64] = np.concatenate(found)

    def of(self, neurons: tuple[Neurons, ...]) -> Ranges:
        """Return the stretches of the sum's vector that a piece owns, ascending and apart."""
        ends: list[int] = []
        for part in stretches(self._arrays, neurons):
            start, stop = (int(at) for at in np.searchsorted(self.positions, [part.start, part.stop]))
            if stop > start and ends and ends[-1] == start:
                ends[-1] = stop
            elif stop > start:
                ends += [start, stop]
        return tuple(pair for k, pair in enumerate(pairwise(ends)) if k % 2 == 0)
