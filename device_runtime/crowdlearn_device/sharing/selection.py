"""What a device shares with the other groups, and takes from them (SliceNet).

Weights are indexed in one vector of all the model's arrays, each with its neurons first: a piece's rows of an
array are one stretch of it, and a device needs nothing of any other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.aggregation.lot import drawn
from crowdlearn_device.program.manifest import ArraySpec, Manifest
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.state.piece_state import Neurons, PieceState, check_codes

from .update import Limits, Update, decode_update

CHUNK_WEIGHTS = 1 << 16
"""Weights in one message: uploads stream, and are checked, in parts of this size."""


@dataclass(frozen=True)
class Stretch:
    """The rows of one array that a piece owns, at [start, stop) of the vector; what is `frozen`, the same in
    all groups, is not shared.
    """

    layer: int
    name: str
    trained: bool
    start: int
    stop: int
    frozen: bool = False

    def lot(self, seed: int, number: int, theta: float) -> NDArray[np.bool_]:
        """Return which of its weights all groups share in round `number`: a public lot of them, all
        statistics, and nothing frozen. They are bool [stop - start].
        """
        if self.frozen or not self.trained:
            return np.full(self.stop - self.start, not self.frozen)
        return drawn(seed, number, theta, self.start, self.stop)


def stretches(arrays: Sequence[ArraySpec], neurons: tuple[Neurons, ...]) -> tuple[Stretch, ...]:
    """Return a piece's part of the vector, in its order."""
    found = []
    for array in arrays:
        row = prod(array.shape)
        first, last = neurons[array.layer]
        start, stop = array.offset + first * row, array.offset + last * row
        found.append(Stretch(array.layer, array.name, array.trained, start, stop, array.frozen))
    return tuple(sorted(found, key=lambda stretch: stretch.start))


def shared_updates(
    manifest: Manifest, state: PieceState, owner: int, number: int, theta: float
) -> Iterator[Update]:
    """Yield the updates of a round: the top theta of the piece's weights that are not frozen, running
    statistics before others.

    Without accumulated gradients, as with theta = 1, every weight ranks alike.
    """
    parts = [part for part in stretches(manifest.arrays, state.neurons) if not part.frozen]
    if not parts:
        return
    edges = np.cumsum([0, *(part.stop - part.start for part in parts)])
    size = int(edges[-1])
    chosen = None if int(theta * size + 0.5) == size else _top(parts, state, theta)
    count = size if chosen is None else len(chosen)
    for start in range(0, count, CHUNK_WEIGHTS):
        stop = min(start + CHUNK_WEIGHTS, count)
        positions = np.arange(start, stop) if chosen is None else chosen[start:stop]
        yield _gathered(parts, edges, state, positions, owner, number)


def drawn_weights(
    manifest: Manifest, state: PieceState, seed: int, number: int, theta: float
) -> tuple[NDArray[np.uint32], Floats]:
    """Return the piece's weights that are in the public lot of round `number`, and all its statistics: where
    they lie in the vector, uint32 [n], and their values, float32 [n].
    """
    indices, values = [np.zeros(0, np.uint32)], [np.zeros(0, np.float32)]
    for part in stretches(manifest.arrays, state.neurons):
        if not part.frozen:
            array = state.layers[part.layer][f"value/{part.name}"].reshape(-1)
            chosen = np.flatnonzero(part.lot(seed, number, theta))
            indices.append((chosen + part.start).astype(np.uint32))
            values.append(array[chosen])
    return np.concatenate(indices), np.concatenate(values)


def _top(parts: Sequence[Stretch], state: PieceState, theta: float) -> NDArray[np.int64]:
    importance = [_importance(part, state.layers[part.layer]) for part in parts]
    return select_top(np.concatenate(importance), theta)


def select_top(accumulated: NDArray[Any], theta: float) -> NDArray[np.int64]:
    """Return positions of the `theta` share of largest values, increasing; ties go to the lower position.

    `accumulated` is |gradient| summed over the epoch, per weight; infinity puts a weight before all others.
    Raises ValueError if theta is outside [0, 1] or a value is NaN.
    """
    if not 0 <= theta <= 1:
        raise ValueError(f"theta is {theta}; choose a share between 0 and 1")
    if np.isnan(accumulated).any():
        raise ValueError("accumulated gradients hold NaN; training has diverged, lower the learning rate")
    size = len(accumulated)
    count = int(theta * size + 0.5)
    if count in (0, size):
        return np.arange(count)
    threshold = np.partition(accumulated, size - count)[size - count]
    chosen = accumulated > threshold
    ties = np.flatnonzero(accumulated == threshold)
    chosen[ties[: count - np.count_nonzero(chosen)]] = True
    return np.flatnonzero(chosen)


def _gathered(
    parts: Sequence[Stretch],
    edges: NDArray[np.int64],
    state: PieceState,
    positions: NDArray[np.int64],
    owner: int,
    number: int,
) -> Update:
    """Return the weights at increasing `positions` of the piece's own vector, in which parts begin at
    `edges`.
    """
    indices = np.empty(len(positions), np.uint32)
    weights = np.empty(len(positions), np.float32)
    cuts = np.searchsorted(positions, edges)
    for part, edge, a, b in zip(parts, edges[:-1], cuts[:-1], cuts[1:], strict=True):
        if b > a:
            here = positions[a:b] - edge
            indices[a:b] = here + part.start
            weights[a:b] = state.layers[part.layer][f"value/{part.name}"].reshape(-1)[here]
    return Update(owner, number, indices, weights)


def _importance(part: Stretch, arrays: Mapping[str, Floats]) -> Floats:
    if not part.trained:  # statistics have no gradient, and a model without them cannot be evaluated: first
        return np.full(part.stop - part.start, np.inf, np.float32)
    accumulated = arrays.get(f"gradient/{part.name}")
    return np.zeros(part.stop - part.start, np.float32) if accumulated is None else accumulated.reshape(-1)


def weights_of(manifest: Manifest, neurons: tuple[Neurons, ...]) -> int:
    """Return how many weights, statistics included, a piece owns."""
    return sum(part.stop - part.start for part in stretches(manifest.arrays, neurons))


def apply_patch(manifest: Manifest, state: PieceState, data: bytes) -> int:
    """Replace the piece's weights by those of an encoded update, and tell how many. Raises WireError if
    one is not its own.
    """
    parts = stretches(manifest.arrays, state.neurons)
    size = max((part.stop for part in parts), default=1)
    update = decode_update(data, Limits(size, size))
    taken = 0
    for part in parts:
        a, b = np.searchsorted(update.indices, [part.start, part.stop])
        target = state.layers[part.layer][f"value/{part.name}"].reshape(-1)
        values = update.values[a:b]
        if target.dtype.kind == "i":
            check_codes(values, part.name)
        target[update.indices[a:b].astype(np.int64) - part.start] = values
        taken += int(b - a)
    if taken != len(update):
        raise WireError(
            f"the server's patch holds {len(update) - taken} weights that this piece does not own"
        )
    return taken
