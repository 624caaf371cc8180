"""Frames and tensors as bytes, checked before use. wire.proto is the single source of their form."""

from __future__ import annotations

import struct
from math import inf, prod
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from crowdlearn_device.errors import WireError

from . import wire_pb2 as pb
from .fields import MOST_FIELDS, too_many

VERSION = 18
"""Both sides of a connection must speak the same."""
MAX_FRAME = 64 << 20
"""Bytes of the largest frame."""
MAX_RANK = 4

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
M = TypeVar("M", bound=Message)

_DTYPES: dict[int, np.dtype[np.generic]] = {
    pb.FLOAT32: np.dtype("<f4"),
    pb.FLOAT16: np.dtype("<f2"),
    pb.INT8: np.dtype("i1"),
}
_FLOAT_MAX = float(np.finfo(np.float32).max)
_FLOAT_TINY = float(np.finfo(np.float32).tiny)
_LARGEST = {
    pb.FLOAT32: _FLOAT_MAX,
    pb.FLOAT16: float(np.finfo(np.float16).max),
    pb.INT8: _FLOAT_MAX * 127 / 128,  # so that a scale times any int8 is finite
}
"""The largest magnitude that a dtype tells."""
_WORDS = {
    body.name: {
        field.name: field.enum_type.values_by_number for field in body.message_type.fields if field.enum_type
    }
    for body in pb.Frame.DESCRIPTOR.fields
}
"""The fields of enumerations, with their numbers, by kind of frame."""
ENVELOPE = struct.Struct("<BBBBIIII")
"""The header of an envelope: mark, purpose, lane, messages beside the first, generation, sender, receiver,
sequence number. What is sealed follows, up to the frame's end: a relay reads the header, and copies nothing.
"""
ENVELOPE_MARK = b"\0"
"""No message of protobuf begins with it."""
_PURPOSES = frozenset(pb.Purpose.values())
_new = tuple.__new__
"""Makes a named tuple at half the cost of a call of its class."""


def decode_message(kind: type[M], data: bytes) -> M:
    """Return the protobuf message that `data` holds. Raises WireError if it is none of this kind."""
    if too_many(kind.DESCRIPTOR, data):
        raise WireError(f"{kind.__name__.lower()} of {len(data)} bytes with more than {MOST_FIELDS} fields")
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise WireError(f"{kind.__name__.lower()} of {len(data)} bytes does not parse: {error}") from error


def decode_frame(data: bytes) -> pb.Frame:
    """Return the frame that `data` holds. Raises WireError if it is none, too large, or of an unknown kind,
    or has an unknown value of an enumeration: protobuf lets any number pass.
    """
    if len(data) > MAX_FRAME:
        raise WireError(f"frame of {len(data)} bytes; at most {MAX_FRAME} are allowed")
    if data[:1] == ENVELOPE_MARK:
        return _enveloped(data)
    frame = decode_message(pb.Frame, data)
    kind = frame.WhichOneof("body")
    if kind == "envelope":
        raise WireError("an envelope as protobuf; it travels with a header of its own")
    if kind is None:
        raise WireError("empty frame, or one from a newer version; update the older side")
    for name, known in _WORDS[kind].items():
        if (value := getattr(getattr(frame, kind), name)) not in known:
            raise WireError(f"{kind} of unknown {name} {value}; update the older side")
    return frame


class Address(NamedTuple):
    """An envelope as far as the relay reads it."""

    generation: int
    sender: int
    receiver: int
    purpose: int
    express: bool


def address_of(data: bytes) -> Address | None:
    """Return where the envelope in `data` goes; None if it holds none, or one that is not well-formed."""
    if len(data) < ENVELOPE.size:
        return None
    mark, purpose, express, _, generation, sender, receiver, _ = ENVELOPE.unpack_from(data)
    if mark or purpose not in _PURPOSES or express > 1:
        return None
    return _new(Address, (generation, sender, receiver, purpose, express == 1))


def encode_frame(frame: pb.Frame) -> bytes:
    """Return a frame as it travels: an envelope as a header and what is sealed, anything else as protobuf has
    it.
    """
    if not frame.HasField("envelope"):
        return frame.SerializeToString()
    e = frame.envelope
    header = ENVELOPE.pack(0, e.purpose, e.express, e.more, e.generation, e.sender, e.receiver, e.sequence)
    return header + e.sealed


def _enveloped(data: bytes) -> pb.Frame:
    """Return the frame of an envelope. Raises WireError if `data` is none."""
    if address_of(data) is None:
        raise WireError(f"envelope of {len(data)} bytes without a header that this version knows")
    _, purpose, express, more, generation, sender, receiver, sequence = ENVELOPE.unpack_from(data)
    frame = pb.Frame()
    envelope = frame.envelope  # filled in place: what is sealed is copied once
    envelope.generation, envelope.sender, envelope.receiver = generation, sender, receiver
    envelope.sequence, envelope.purpose, envelope.express = sequence, purpose, express == 1
    envelope.more = more
    envelope.sealed = data[ENVELOPE.size :]
    return frame


def encode_tensor(
    values: Array, dtype: pb.DType = pb.FLOAT32, rng: np.random.Generator | None = None
) -> pb.Tensor:
    """Return `values` as a tensor of the wire's `dtype`; int8 is scaled to the largest magnitude and rounded
    stochastically by `rng`.

    Raises WireError if a value is not finite in that dtype. Values are float32 [...].
    """
    largest = np.maximum.reduce(np.abs(values), axis=None, initial=0.0)
    if not largest <= _LARGEST.get(dtype, inf):  # nor is NaN
        raise WireError(
            f"the largest value is {largest}, which {pb.DType.Name(dtype).lower()} cannot hold: training has "
            "diverged; lower training.learning_rate"
        )
    if dtype == pb.INT8:
        step = np.float32(largest) / np.float32(127)
        scale = float(step) if step >= _FLOAT_TINY else 1.0  # smaller than that is zero
        scaled = np.asarray(np.asarray(values, np.float32) / np.float32(scale))
        scaled += rng.random(scaled.shape, np.float32) if rng is not None else np.float32(0.5)
        np.floor(scaled, out=scaled)
        np.minimum(scaled, 127, out=scaled)
        data = np.maximum(scaled, -127, out=scaled).astype(np.int8)
        return pb.Tensor(dtype=dtype, shape=values.shape, data=data.tobytes(), scale=scale)
    data = np.ascontiguousarray(values, _DTYPES[dtype])
    return pb.Tensor(dtype=dtype, shape=values.shape, data=data.tobytes())


def encode_exactly(values: Array) -> pb.Tensor:
    """Return values [...], float32, float16 or int8, as a tensor of their own type: the same come out of it.

    Raises WireError if a value is not finite.
    """
    if values.dtype == np.int8:
        return pb.Tensor(dtype=pb.INT8, shape=values.shape, data=values.tobytes(), scale=1.0)
    return encode_tensor(values, pb.FLOAT16 if values.dtype == np.float16 else pb.FLOAT32)


def decode_tensor(tensor: pb.Tensor, shape: tuple[int, ...] | None = None) -> Floats:
    """Return the array a tensor message holds, as float32.

    Raises WireError if dtype, rank, size or (if given) shape is not as it must be, or a value is not
    finite. It is float32 [...].
    """
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise WireError(f"tensor of unknown dtype {tensor.dtype}")
    actual, data = tuple(tensor.shape), tensor.data
    if len(actual) > MAX_RANK:
        raise WireError(f"tensor of rank {len(actual)}; at most {MAX_RANK}")
    count = prod(actual)
    # An empty tensor has no bytes to check its other dimensions by, and NumPy cannot hold every shape.
    if (count or prod(max(size, 1) for size in actual)) > MAX_FRAME:
        raise WireError(f"tensor of shape {actual}: more than any frame can carry")
    if count * dtype.itemsize != len(data):
        raise WireError(f"tensor of shape {actual} {dtype} with {len(data)} bytes of data")
    if shape is not None and actual != shape:
        raise WireError(f"tensor of shape {actual} where {shape} was due")
    values = np.frombuffer(data, dtype).reshape(actual)
    if tensor.dtype == pb.INT8:
        if not 0 < tensor.scale * 128 <= _FLOAT_MAX:
            raise WireError(f"int8 tensor with scale {tensor.scale}")
        return np.multiply(values, np.float32(tensor.scale), dtype=np.float32)
    floats = values.astype(np.float32, copy=False)
    if not np.isfinite(floats).all():
        raise WireError(
            "tensor with values that are not finite; training has diverged, or the sender is faulty"
        )
    return floats
