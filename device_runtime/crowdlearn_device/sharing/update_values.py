"""The values of an update, split into byte planes: that of sign and exponent is Huffman-coded (deflate) where
that is shorter, as are the levels of int8.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import Floats

SCALE_BLOCK = 1024
"""Values that share one int8 scale: its 32 bits cost 1/32 bit a value."""


MAX_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))
"""float32: what is above it, times 127, is not finite."""


class ValueType(IntEnum):
    """The dtype in which a value travels; INT8 is linear in the largest magnitude of its block of SCALE_BLOCK
    values.
    """

    FLOAT32 = 0
    FLOAT16 = 1
    INT8 = 2

    @property
    def bits(self) -> int:
        """Return bits of one value before entropy coding."""
        return (32, 16, 8)[self]


def as_decoded(values: Floats, value_type: ValueType) -> Floats:
    """Return the values that decoding an update of `values` gives: rounded, except in float32.

    Raises ValueError if one is not finite in `value_type`. Values are float32 [n].
    """
    if value_type is ValueType.INT8:
        return _finite(_restored(*_quantised(values)), value_type)
    return _floats(values, value_type).astype(np.float32)


def encode_values(values: Floats, value_type: ValueType) -> bytes:
    if value_type is ValueType.INT8:
        levels, scales = _quantised(values)
        return scales.tobytes() + _with_length(deflated(levels.tobytes()))
    numbers = _floats(values, value_type)
    width = numbers.itemsize
    planes = numbers.view(np.uint8).reshape(-1, width)
    top = deflated(np.ascontiguousarray(planes[:, width - 1]).tobytes())
    rest = [np.ascontiguousarray(planes[:, plane]).tobytes() for plane in range(width - 1)]
    return b"".join([*rest, _with_length(top)])


def decode_values(data: memoryview, value_type: ValueType, count: int) -> Floats:
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


def _floats(values: Floats, value_type: ValueType) -> NDArray[np.floating]:
    with np.errstate(over="ignore"):
        return _finite(values.astype("<f2" if value_type is ValueType.FLOAT16 else "<f4"), value_type)


def _finite(values: NDArray[Any], value_type: ValueType) -> NDArray[Any]:
    if not np.isfinite(values).all():
        raise ValueError(f"values are not finite in {value_type.name.lower()}; send float32 or train slower")
    return values


def _quantised(values: Floats) -> tuple[NDArray[np.int8], Floats]:
    if not np.isfinite(values).all():
        raise ValueError("values are not finite; the training has diverged, lower the learning rate")
    padded = np.zeros((-(-len(values) // SCALE_BLOCK), SCALE_BLOCK), np.float32)
    padded.reshape(-1)[: len(values)] = values
    scales = np.minimum(np.abs(padded).max(1) / np.float32(127), MAX_SCALE).astype("<f4")
    divisors = np.where(scales > 0, scales, np.float32(1))
    levels = np.rint(padded / divisors[:, None]).clip(-127, 127).astype(np.int8)
    return levels.reshape(-1)[: len(values)], scales


def _restored(levels: NDArray[np.int8], scales: Floats) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        return levels.astype(np.float32) * np.repeat(scales, SCALE_BLOCK)[: len(levels)]


def _with_length(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def _without_length(data: memoryview, start: int, size: int) -> bytes:
    """Return the part that begins at `start` with its packed length, ends the data and unpacks to `size`
    bytes.
    """
    if len(data) < start + 4:
        raise WireError(f"the values of an update have {len(data)} bytes; expected more than {start}")
    (length,) = struct.unpack_from("<I", data, start)
    if len(data) != start + 4 + length:
        raise WireError(f"the values of an update have {len(data)} bytes and claim {start + 4 + length}")
    return inflated(data[start + 4 :], size)


def deflated(data: bytes) -> bytes:
    """Return `data` Huffman-coded if that is shorter, else `data` itself; the reader sees by the length."""
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15, strategy=zlib.Z_HUFFMAN_ONLY)
    packed = deflate.compress(data) + deflate.flush()
    return packed if len(packed) < len(data) else data


def inflated(data: memoryview, size: int) -> bytes:
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
