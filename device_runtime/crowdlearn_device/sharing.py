"""What a device shares with the other groups, and takes from them (SliceNet).

Weights are indexed in one vector of all the model's arrays, each with its neurons first: a piece's rows of an
array are one stretch of it, and a device need know nothing of anybody else's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from .errors import WireError
from .manifest import ArraySpec, Manifest
from .state import Neurons, PieceState
from .update import Limits, Update, ValueType, chunks, decode_update, encode_update, select_top
from .wire import Floats

CHUNK_WEIGHTS = 1 << 16
"""Weights in one message: uploads stream, and are checked, in parts of this size."""


@dataclass(frozen=True)
class Stretch:
    """The rows of one array that a piece owns, at [start, stop) of the vector."""

    layer: int
    name: str
    trained: bool
    start: int
    stop: int


def stretches(arrays: Sequence[ArraySpec], neurons: tuple[Neurons, ...]) -> tuple[Stretch, ...]:
    """A piece's part of the vector, in its order."""
    found = []
    for array in arrays:
        row = prod(array.shape)
        first, last = neurons[array.layer]
        start, stop = array.offset + first * row, array.offset + last * row
        found.append(Stretch(array.layer, array.name, array.trained, start, stop))
    return tuple(sorted(found, key=lambda stretch: stretch.start))


def shared_updates(
    manifest: Manifest, state: PieceState, owner: int, number: int, theta: float, values: ValueType
) -> Iterator[bytes]:
    """The encoded updates of a round: the top theta of the piece's weights, and all running statistics.

    Without accumulated gradients, as with theta = 1, every weight ranks alike.
    """
    parts = stretches(manifest.arrays, state.neurons)
    if not parts:
        return
    indices = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    weights = np.concatenate([state.layers[p.layer][f"value/{p.name}"].reshape(-1) for p in parts])
    importance = np.concatenate([_importance(part, state.layers[part.layer]) for part in parts])
    chosen = select_top(importance, theta)
    update = Update(owner, number, indices[chosen].astype(np.uint32), weights[chosen])
    for chunk in chunks(update, CHUNK_WEIGHTS):
        yield encode_update(chunk, values)


def _importance(part: Stretch, arrays: Mapping[str, Floats]) -> Floats:
    if not part.trained:  # statistics have no gradient, and a model without them cannot be evaluated
        return np.full(part.stop - part.start, np.inf, np.float32)
    accumulated = arrays.get(f"gradient/{part.name}")
    return np.zeros(part.stop - part.start, np.float32) if accumulated is None else accumulated.reshape(-1)


def apply_patch(manifest: Manifest, state: PieceState, data: bytes) -> None:
    """Replace the piece's weights by those of an encoded update. Raises WireError where one is not
    its own.
    """
    parts = stretches(manifest.arrays, state.neurons)
    size = max((part.stop for part in parts), default=1)
    update = decode_update(data, Limits(size, size))
    taken = 0
    for part in parts:
        a, b = np.searchsorted(update.indices, [part.start, part.stop])
        target = state.layers[part.layer][f"value/{part.name}"].reshape(-1)
        target[update.indices[a:b].astype(np.int64) - part.start] = update.values[a:b]
        taken += int(b - a)
    if taken != len(update):
        raise WireError(
            f"the server's patch holds {len(update) - taken} weights that this piece does not own"
        )
