"""Updates: weights that a device shares, compactly (SliceNet).

The index space is the flat vector of the model's floats. An encoded update is a header, the index set within
the span [first, first + span), and the values; a part that deflate shortens is deflated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import Floats

from .update_indices import Coding, decode_set, encode_set
from .update_values import ValueType, decode_values, deflated, encode_values, inflated

VERSION = 1
HEADER = struct.Struct("<BBBBIIIIIIII")
MAX_MODEL_WEIGHTS = 1 << 31
"""So that a sum of gaps from a hostile message stays far from overflowing 64 bits."""

Indices = NDArray[np.uint32]


@dataclass(frozen=True)
class Update:
    """Weights (not gradients) that `owner` shares in `round`; `indices` increase strictly."""

    owner: int
    round: int
    indices: Indices
    values: Floats

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Limits:
    """The limits of a receiver: indices below `model_weights`, at most `max_weights` of them in one
    message.
    """

    model_weights: int
    max_weights: int

    def __post_init__(self) -> None:
        if not 0 < self.model_weights <= MAX_MODEL_WEIGHTS:
            raise ValueError(
                f"a model of {self.model_weights} weights; sharing takes 1 to {MAX_MODEL_WEIGHTS}"
            )

    @property
    def max_bytes(self) -> int:
        """Return the bytes that no honest message exceeds: float32, gaps no worse than a bitmap or 32 bits
        each.
        """
        indices = min(self.model_weights // 8, 4 * self.max_weights)
        return HEADER.size + indices + 4 * self.max_weights + 4096


def chunks(update: Update, max_weights: int) -> Iterator[Update]:
    """Yield the update in pieces of at most `max_weights`, each of which can be encoded, sent and applied
    alone.
    """
    for start in range(0, len(update), max_weights):
        part = slice(start, start + max_weights)
        yield Update(update.owner, update.round, update.indices[part], update.values[part])


def encode_update(update: Update, value_type: ValueType = ValueType.FLOAT32) -> bytes:
    """Return one update as bytes.

    Raises ValueError if the update is not well-formed, or a value is not finite in `value_type`.
    """
    indices, values = np.asarray(update.indices, np.uint32), np.asarray(update.values, np.float32)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise ValueError(f"{indices.shape} indices and {values.shape} values; give one value an index")
    if len(indices) and not (indices[1:] > indices[:-1]).all():
        raise ValueError("indices do not increase strictly; sort them and drop duplicates")
    first = int(indices[0]) if len(indices) else 0
    span = int(indices[-1]) - first + 1 if len(indices) else 0
    kind, shift, index_bytes = encode_set((indices - np.uint32(first)).astype(np.int64), span)
    packed_indices, packed_values = deflated(index_bytes), encode_values(values, value_type)
    header = HEADER.pack(
        VERSION,
        value_type,
        kind,
        shift,
        update.owner,
        update.round,
        len(indices),
        first,
        span,
        len(index_bytes),
        len(packed_indices),
        len(packed_values),
    )
    return header + packed_indices + packed_values


def decode_update(data: bytes, limits: Limits) -> Update:
    """Return the update in `data`: indices strictly increasing and below the model's size, values finite.

    Raises WireError, before anything large is allocated, where `data` is not such an update.
    """
    if not HEADER.size <= len(data) <= limits.max_bytes:
        raise WireError(f"an update has {len(data)} bytes; expected {HEADER.size} to {limits.max_bytes}")
    version, value_type, kind, shift, owner, round_, count, first, span, raw, packed, valued = (
        HEADER.unpack_from(data)
    )
    if version != VERSION:
        raise WireError(f"an update has version {version}; this side has {VERSION}, upgrade the older one")
    if value_type not in tuple(ValueType) or kind not in tuple(Coding) or shift > 31:
        raise WireError(
            f"an update has value type {value_type}, set {kind}, shift {shift}; none such is known"
        )
    if count > limits.max_weights:
        raise WireError(f"an update has {count} weights; at most {limits.max_weights} go in one message")
    if first + span > limits.model_weights or (count == 0) != (span == 0) or count > span:
        raise WireError(
            f"{count} weights in [{first}, {first + span}) do not fit {limits.model_weights} weights"
        )
    if len(data) != HEADER.size + packed + valued or raw > limits.max_bytes:
        raise WireError(
            f"an update has {len(data)} bytes and claims {HEADER.size + packed + valued}; send it again"
        )
    body = memoryview(data)[HEADER.size :]
    index_bytes = inflated(body[:packed], raw)
    offsets = decode_set(Coding(kind), shift, index_bytes, count, span)
    values = decode_values(body[packed:], ValueType(value_type), count)
    if not np.isfinite(values).all():
        raise WireError("an update holds values that are not finite; the sender's training has diverged")
    return Update(owner, round_, (offsets + first).astype(np.uint32), values)
