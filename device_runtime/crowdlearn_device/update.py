"""Compact updates: which weights a device shares, and how they travel (SliceNet).

The index space is the flat vector of the model's floats. An encoded update is a header, the index set and
the values. The index set lies in a span [first, first + span) and is written in the cheapest of four ways:
nothing (all of the span), a bitmap, Golomb-Rice coded gaps, or Golomb-Rice coded gaps of the *missing*
indices. Values are split into byte planes; the plane of sign and exponent is Huffman-coded (deflate), as is
any other part that it shortens.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import log2
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import WireError

VERSION = 1
HEADER = struct.Struct("<BBBBIIIIIIII")
SCALE_BLOCK = 1024
"""Values that share one int8 scale: its 32 bits cost 1/32 bit a value."""
MAX_MODEL_WEIGHTS = 1 << 31
"""So that a sum of gaps from a hostile message stays far from overflowing 64 bits."""

Indices = NDArray[np.uint32]
Floats = NDArray[np.float32]


class ValueType(IntEnum):
    """How a value travels; INT8 is linear in the largest magnitude of its block of SCALE_BLOCK values."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2

    @property
    def bits(self) -> int:
        """Bits of one value before entropy coding."""
        return (32, 16, 8)[self]


class _Set(IntEnum):
    ALL = 0
    BITMAP = 1
    GAPS = 2
    MISSING_GAPS = 3


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
    """What a receiver takes: indices below `model_weights`, at most `max_weights` of them in one message."""

    model_weights: int
    max_weights: int

    def __post_init__(self) -> None:
        if not 0 < self.model_weights <= MAX_MODEL_WEIGHTS:
            raise ValueError(
                f"a model of {self.model_weights} weights; sharing takes 1 to {MAX_MODEL_WEIGHTS}"
            )

    @property
    def max_bytes(self) -> int:
        """Bytes that no honest message exceeds: float32, gaps no worse than a bitmap or 32 bits each."""
        indices = min(self.model_weights // 8, 4 * self.max_weights)
        return HEADER.size + indices + 4 * self.max_weights + 4096


def select_top(accumulated: NDArray[Any], theta: float) -> NDArray[np.int64]:
    """Positions of the `theta` share of largest values, increasing; ties go to the lower position.

    `accumulated` is |gradient| summed over the epoch, per weight; infinity puts a weight before all others.
    Raises ValueError where theta is outside [0, 1] or a value is NaN.
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


def chunks(update: Update, max_weights: int) -> Iterator[Update]:
    """The update in pieces of at most `max_weights`, each of which can be encoded, sent and applied alone."""
    for start in range(0, len(update), max_weights):
        part = slice(start, start + max_weights)
        yield Update(update.owner, update.round, update.indices[part], update.values[part])


def encode_update(update: Update, value_type: ValueType = ValueType.FLOAT32) -> bytes:
    """One update as bytes.

    Raises ValueError where the update is not well-formed, or a value is not finite in `value_type`.
    """
    indices, values = np.asarray(update.indices, np.uint32), np.asarray(update.values, np.float32)
    if indices.ndim != 1 or indices.shape != values.shape:
        raise ValueError(f"{indices.shape} indices and {values.shape} values; give one value an index")
    if len(indices) and not (indices[1:] > indices[:-1]).all():
        raise ValueError("indices do not increase strictly; sort them and drop duplicates")
    first = int(indices[0]) if len(indices) else 0
    span = int(indices[-1]) - first + 1 if len(indices) else 0
    kind, shift, index_bytes = _encode_set((indices - np.uint32(first)).astype(np.int64), span)
    packed_indices, packed_values = _deflated(index_bytes), _encode_values(values, value_type)
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
    """The update in `data`: indices strictly increasing and below the model's size, values finite.

    Raises WireError, before anything large is allocated, where `data` is not such an update.
    """
    if not HEADER.size <= len(data) <= limits.max_bytes:
        raise WireError(f"an update has {len(data)} bytes; expected {HEADER.size} to {limits.max_bytes}")
    version, value_type, kind, shift, owner, round_, count, first, span, raw, packed, valued = (
        HEADER.unpack_from(data)
    )
    if version != VERSION:
        raise WireError(f"an update has version {version}; this side speaks {VERSION}, upgrade the older one")
    if value_type not in tuple(ValueType) or kind not in tuple(_Set) or shift > 31:
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
    index_bytes = _inflated(body[:packed], raw)
    offsets = _decode_set(_Set(kind), shift, index_bytes, count, span)
    values = _decode_values(body[packed:], ValueType(value_type), count)
    if not np.isfinite(values).all():
        raise WireError("an update holds values that are not finite; the sender's training has diverged")
    return Update(owner, round_, (offsets + first).astype(np.uint32), values)


def as_decoded(values: Floats, value_type: ValueType) -> Floats:
    """The values that whoever decodes an update of `values` has: rounded, except in float32.

    Raises ValueError where one is not finite in `value_type`.
    """
    if value_type is ValueType.INT8:
        return _finite(_restored(*_quantised(values)), value_type)
    return _floats(values, value_type).astype(np.float32)


def index_entropy(span: int, count: int) -> float:
    """Bits that `count` of `span` equally likely indices need at least: about log2 of the binomial."""
    if count in (0, span):
        return 0.0
    share = count / span
    return -span * (share * log2(share) + (1 - share) * log2(1 - share))


def _encode_set(offsets: NDArray[np.int64], span: int) -> tuple[_Set, int, bytes]:
    """The set of `offsets` in [0, span), whose last offset is span - 1, in the cheapest way."""
    if len(offsets) == span:
        return _Set.ALL, 0, b""
    kind, members = _Set.GAPS, offsets
    if 2 * len(offsets) > span:
        present = np.ones(span, bool)
        present[offsets] = False
        kind, members = _Set.MISSING_GAPS, np.flatnonzero(present)
    shift = _rice_shift(len(members), span)
    if shift == 0:  # gaps without low bits cost one bit an index of the span, as a bitmap does
        return _Set.BITMAP, 0, _bitmap(offsets, span)
    gaps = np.diff(members, prepend=-1) - 1
    quotients = gaps >> shift
    if len(members) * (1 + shift) + int(quotients.sum()) >= span:
        return _Set.BITMAP, 0, _bitmap(offsets, span)
    ends = np.cumsum(quotients + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, np.uint8)
    unary[ends] = 1
    planes = [np.packbits(((gaps >> bit) & 1).astype(np.uint8)).tobytes() for bit in range(shift)]
    return kind, shift, b"".join([*planes, np.packbits(unary).tobytes()])


def _bitmap(offsets: NDArray[np.int64], span: int) -> bytes:
    present = np.zeros(span, np.uint8)
    present[offsets] = 1
    return np.packbits(present).tobytes()


def _decode_set(kind: _Set, shift: int, data: bytes, count: int, span: int) -> NDArray[np.int64]:
    if kind is _Set.ALL:
        if count != span or data:
            raise WireError(f"an update claims all of {span} weights and {count} of them; send it again")
        return np.arange(span)
    packed = np.frombuffer(data, np.uint8)
    if kind is _Set.BITMAP:
        if len(packed) != -(-span // 8):
            raise WireError(f"a bitmap of {span} weights has {len(packed)} bytes; send it again")
        return _exactly(_ones(packed, span), count, span)
    members = count if kind is _Set.GAPS else span - count
    plane = -(-members // 8)
    if len(packed) < shift * plane:
        raise WireError(f"{members} gaps of {shift} low bits do not fit {len(packed)} bytes; send them again")
    ends = _ones(packed[shift * plane :])
    if len(ends) != members:
        raise WireError(f"an update has {len(ends)} gaps and claims {members}; send it again")
    quotients = np.diff(ends, prepend=-1) - 1
    if members and int(quotients.max()) > span >> shift:
        raise WireError(
            f"a gap of {int(quotients.max()) << shift} does not fit {span} weights; send it again"
        )
    gaps = quotients << shift
    for bit in range(shift):
        low = np.unpackbits(packed[bit * plane : (bit + 1) * plane], count=members)
        gaps |= low.astype(np.int64) << bit
    offsets = np.cumsum(gaps + 1) - 1
    if members and offsets[-1] >= span:
        raise WireError(f"gaps reach weight {int(offsets[-1])} of {span}; send the update again")
    if kind is _Set.MISSING_GAPS:
        present = np.ones(span, bool)
        present[offsets] = False
        offsets = np.flatnonzero(present)
    return _exactly(offsets, count, span)


def _ones(packed: NDArray[np.uint8], count: int | None = None) -> NDArray[np.int64]:
    """Where the first `count` bits are 1; numpy finds them several times sooner among booleans."""
    return np.flatnonzero(np.unpackbits(packed, count=count).view(np.bool_))


def _exactly(offsets: NDArray[np.int64], count: int, span: int) -> NDArray[np.int64]:
    if len(offsets) != count or (count and (offsets[0] != 0 or offsets[-1] != span - 1)):
        raise WireError(
            f"an update names {len(offsets)} weights, not {count} from the first to the last; send it again"
        )
    return offsets


def _rice_shift(members: int, span: int) -> int:
    """The shift that suits geometric gaps of this density best (Golomb's rule: 2^shift near ln 2 / share)."""
    mean = (span - members) / max(members, 1)
    best = max(0, int(log2(max(mean * 0.69, 1)))) if members else 0
    return min(range(best, best + 2), key=lambda shift: shift + _unary_bits(members / span, shift))


def _unary_bits(share: float, shift: int) -> float:
    skipped: float = (1 - share) ** (1 << shift)
    return 1 / (1 - skipped) if skipped < 1 else float("inf")


def _encode_values(values: Floats, value_type: ValueType) -> bytes:
    if value_type is ValueType.INT8:
        levels, scales = _quantised(values)
        return scales.tobytes() + _with_length(_deflated(levels.tobytes()))
    numbers = _floats(values, value_type)
    width = numbers.itemsize
    planes = numbers.view(np.uint8).reshape(-1, width)
    top = _deflated(np.ascontiguousarray(planes[:, width - 1]).tobytes())
    rest = [np.ascontiguousarray(planes[:, plane]).tobytes() for plane in range(width - 1)]
    return b"".join([*rest, _with_length(top)])


def _floats(values: Floats, value_type: ValueType) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        return _finite(values.astype("<f2" if value_type is ValueType.FLOAT16 else "<f4"), value_type)


def _finite(values: NDArray[Any], value_type: ValueType) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ValueError(f"values are not finite in {value_type.name.lower()}; send float32 or train slower")
    return values


def _decode_values(data: memoryview, value_type: ValueType, count: int) -> Floats:
    if value_type is ValueType.INT8:
        blocks = -(-count // SCALE_BLOCK)
        levels = _without_length(data, 4 * blocks, count)
        scales = np.frombuffer(data[: 4 * blocks], "<f4")
        return _restored(np.frombuffer(levels, np.int8), scales)
    width = value_type.bits // 8
    top = _without_length(data, (width - 1) * count, count)
    planes = np.empty((count, width), np.uint8)
    for plane in range(width - 1):
        planes[:, plane] = np.frombuffer(data[plane * count : (plane + 1) * count], np.uint8)
    planes[:, width - 1] = np.frombuffer(top, np.uint8)
    return planes.reshape(-1).view(f"<f{width}").astype(np.float32)


def _quantised(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    if not np.isfinite(values).all():
        raise ValueError("values are not finite; the training has diverged, lower the learning rate")
    padded = np.zeros((-(-len(values) // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    padded.reshape(-1)[: len(values)] = values
    scales = (np.abs(padded).max(1) / np.float32(127)).astype("<f4")
    divisors = np.where(scales > 0, scales, np.float32(1))
    levels = np.rint(padded / divisors[:, None]).clip(-127, 127).astype(np.int8)
    return levels.reshape(-1)[: len(values)], scales


def _restored(levels: NDArray[np.int8], scales: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return levels.astype(np.float32) * np.repeat(scales, SCALE_BLOCK)[: len(levels)]


def _deflated(data: bytes) -> bytes:
    """`data` Huffman-coded where that is shorter, else `data` itself; the reader tells by the length."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, strategy=zlib.Z_HUFFMAN_ONLY)
    packed = deflate.compress(data) + deflate.flush()
    return packed if len(packed) < len(data) else data


def _inflated(data: memoryview, size: int) -> bytes:
    if len(data) == size:
        return bytes(data)
    inflate = zlib.decompressobj(-15)
    try:
        unpacked = inflate.decompress(data, size) if size else b""
    except zlib.error as error:
        raise WireError(f"an update is damaged ({error}); send it again") from error
    if len(unpacked) != size or inflate.unconsumed_tail or inflate.unused_data:
        raise WireError(
            f"part of an update unpacks to other than the {size} bytes that it claims; send it again"
        )
    return unpacked


def _with_length(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _without_length(data: memoryview, start: int, size: int) -> bytes:
    """The part that begins at `start` with its packed length, ends the data and unpacks to `size` bytes."""
    if len(data) < start + 4:
        raise WireError(f"the values of an update have {len(data)} bytes; expected more than {start}")
    (length,) = struct.unpack_from("<I", data, start)
    if len(data) != start + 4 + length:
        raise WireError(f"the values of an update have {len(data)} bytes and claim {start + 4 + length}")
    return _inflated(data[start + 4 :], size)
