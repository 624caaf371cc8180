"""Messages between a device and the process that runs its program: neither trusts the other's bytes.

Each is one packet: a letter, and what belongs to it. Arrays lie in memory that both see.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.protocol.frames import Array

LOAD, SHARE, FORGET, DEFINE, RUN = b"L", b"S", b"F", b"C", b"R"
"""Messages to the process: load the program in this memory; here is memory (number, size); forget all calls,
and memory (numbers); a call, which is run; run the call of a number once more.
"""
LOADED, DONE, SAME, GROW, ERROR = b"l", b"d", b"=", b"g", b"e"
"""Messages from it: it is loaded; outputs, as told; outputs as the last time; outputs need memory (bytes);
refused.
"""

MAX_PACKET = 192 << 10
NUMBER = struct.Struct("<Q")
MEMORY = struct.Struct("<QQ")
ALIGNED = 64
MAX_OUTPUTS, MAX_RANK = 1 << 14, 8
DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


class Spec(NamedTuple):
    """An array without its place."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> Spec:
        return cls(array.dtype.name, array.shape)

    @property
    def size(self) -> int:
        """Return bytes that it takes, up to where the next one may begin."""
        taken = prod(self.shape) * np.dtype(self.dtype).itemsize
        return -(-taken // ALIGNED) * ALIGNED


class Place(NamedTuple):
    """An array in memory of a number."""

    memory: int
    offset: int
    spec: Spec


def defined(number: int, method: str, inputs: Sequence[Place]) -> bytes:
    """Return the packet that defines a call. Raises ProgramError if it takes too many arrays."""
    definition = [method, [[p.memory, p.offset, p.spec.dtype, p.spec.shape] for p in inputs]]
    packet = DEFINE + NUMBER.pack(number) + json.dumps(definition, separators=(",", ":")).encode()
    if len(packet) > MAX_PACKET:
        raise ProgramError(f"method {method} takes {len(inputs)} arrays; that is more than one call takes")
    return packet


def call_of(packet: bytes) -> tuple[int, str, list[Place]]:
    """Return number, method and inputs that `defined` packed."""
    (number,) = NUMBER.unpack_from(packet, 1)
    method, inputs = json.loads(packet[1 + NUMBER.size :])
    return number, method, [Place(m, o, Spec(dtype, tuple(shape))) for m, o, dtype, shape in inputs]


def outputs_message(specs: Sequence[Spec]) -> bytes:
    """Return the packet that describes a call's outputs. Raises ProgramError if they are too many."""
    packet = DONE + json.dumps(specs, separators=(",", ":")).encode()
    if len(packet) > MAX_PACKET or not known(specs):
        raise ProgramError(f"{len(specs)} outputs, or types of them, that no message can hold")
    return packet


def outputs_of(packet: bytes) -> list[Spec]:
    """Return the outputs of a message. Raises ProgramError if it is malformed: a program\'s process may send
    what it likes.
    """
    try:
        content: Any = json.loads(packet[1:])
        specs = [Spec(dtype, tuple(shape)) for dtype, shape in content]
    except (ValueError, TypeError, RecursionError) as error:
        raise ProgramError(f"the program's process sent its outputs in no known form ({error})") from error
    if not known(specs):
        raise ProgramError("the program's process sent outputs that cannot be")
    return specs


def known(specs: Sequence[Spec]) -> bool:
    """Return whether all are arrays that a packet may describe."""
    return len(specs) <= MAX_OUTPUTS and all(
        spec.dtype in DTYPES
        and len(spec.shape) <= MAX_RANK
        and all(type(size) is int and 0 <= size < 1 << 40 for size in spec.shape)
        for spec in specs
    )


def offsets(specs: Sequence[Spec]) -> tuple[list[int], int]:
    """Return where each array lies if they follow each other, and the bytes that they take together."""
    starts, at = [], 0
    for spec in specs:
        starts.append(at)
        at += spec.size
    return starts, at
