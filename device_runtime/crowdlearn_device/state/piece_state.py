"""The state of a piece at a boundary, in memory, as bytes and in transit; on_disk.py has it on disk."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple, Protocol

import numpy as np

from crowdlearn_device.errors import StateError, WireError
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array, Floats, decode_tensor, encode_exactly

VALUE, GRADIENT = "value", "gradient"
"""Kinds of arrays. value: the array itself. gradient: |gradient| accumulated since the last sharing. An
optimizer adds its own.
"""
MOST_KINDS = 4
"""The most kinds that an array of weights has."""
DTYPES = {"float32": "<f4", "float16": "<f2", "int8": "i1"}
"""The types of a state's arrays by name, and as they lie in its bytes: only what is frozen is narrower."""
LARGEST_CODE = 127
"""The largest magnitude of the codes of frozen weights that are held as int8."""
PART_BYTES = 256 << 10
"""Bytes of a state in one message. A dozen of them may wait at a device before it takes one."""
DIGEST_BYTES = 32
MAX_HEADER = 1 << 20
DAMAGED = (ValueError, LookupError, TypeError, ArithmeticError, struct.error, RecursionError)
"""The errors that reading a damaged state raises."""
_MAGIC = b"CLSTATE2"
_HEAD = struct.Struct("<8sI")

Neurons = tuple[int, int]


def kinds_of(slots: Sequence[str], *, rank: bool) -> tuple[str, ...]:
    """Return the kinds of arrays that a piece keeps of what it trains; `rank`: whether |gradient| is
    accumulated.
    """
    return (VALUE, *slots, *((GRADIENT,) if rank else ()))


class Rows(Protocol):
    """An array with a row for each neuron, in memory or on disk: float32, but frozen ones may be narrower."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Floats: ...


class ArrayHead(NamedTuple):
    """The layer, name, shape and type of an array in a state's bytes."""

    layer: int
    name: str
    shape: tuple[int, ...]
    dtype: str = "<f4"


@dataclass(frozen=True)
class Header:
    """The head of a state's bytes: neurons by layer, and every array. Arrays follow, and a hash of all."""

    neurons: tuple[Neurons, ...]
    arrays: tuple[ArrayHead, ...]

    def to_bytes(self) -> bytes:
        arrays = [(x.layer, x.name, x.shape, np.dtype(x.dtype).name) for x in self.arrays]
        text = json.dumps({"neurons": self.neurons, "arrays": arrays}).encode()
        return _HEAD.pack(_MAGIC, len(text)) + text

    @classmethod
    def read(cls, read: Callable[[int], bytes]) -> tuple[Header, int]:
        """Return the header that `read` gives the next bytes of, and how many these are. Raises one of
        DAMAGED.
        """
        magic, length = _HEAD.unpack(read(_HEAD.size))
        if magic != _MAGIC:
            raise ValueError("no state file")
        if length > MAX_HEADER:
            raise ValueError("header too long")
        header = json.loads(read(length))
        neurons = tuple((int(a), int(b)) for a, b in header["neurons"])
        arrays = tuple(
            ArrayHead(int(layer), str(name), tuple(map(int, shape)), DTYPES[dtype])
            for layer, name, shape, dtype in header["arrays"]
        )
        for each in arrays:
            start, stop = neurons[each.layer]
            if each.shape[0] != stop - start or min(each.shape) < 0:
                raise ValueError(f"{each.name} is of {each.shape[0]} neurons, not of {stop - start}")
        return cls(neurons, arrays), _HEAD.size + length

    def placed(self, offset: int, size: int) -> Iterator[tuple[ArrayHead, int]]:
        """Yield every array and its place; the first is at `offset`. Raises ValueError if they do not end at
        `size`.
        """
        for each in self.arrays:
            yield each, offset
            offset += np.dtype(each.dtype).itemsize * prod(each.shape)
            if offset > size:
                raise ValueError("arrays longer than the file")
        if offset != size:
            raise ValueError("file longer than its arrays")


@dataclass(frozen=True)
class PieceState:
    """Arrays of a piece by layer and name; dimension 0 runs over the piece's neurons of that layer."""

    neurons: tuple[Neurons, ...]
    layers: Mapping[int, Mapping[str, Floats]]

    @property
    def _header(self) -> bytes:
        arrays = (
            ArrayHead(layer, name, array.shape, DTYPES[array.dtype.name])
            for layer, arrays in self.layers.items()
            for name, array in arrays.items()
        )
        return Header(self.neurons, tuple(arrays)).to_bytes()

    @property
    def size(self) -> int:
        """Return bytes that `blocks` gives."""
        arrays = sum(array.nbytes for arrays in self.layers.values() for array in arrays.values())
        return len(self._header) + arrays + DIGEST_BYTES

    def blocks(self) -> Iterator[bytes | memoryview]:
        """Yield the state's bytes, without a copy of its arrays."""
        head = self._header
        digest = hashlib.sha256(head)
        yield head
        for arrays in self.layers.values():
            for array in arrays.values():
                block = np.ascontiguousarray(array, DTYPES[array.dtype.name]).reshape(-1).view(np.uint8).data
                digest.update(block)
                yield block
        yield digest.digest()

    def to_bytes(self) -> bytes:
        return b"".join(self.blocks())

    @classmethod
    def from_bytes(cls, data: bytes) -> PieceState:
        """Return the state that `data` holds, read-only and in the same memory. Raises StateError if it is
        not exactly one.
        """
        content, file = memoryview(data)[:-DIGEST_BYTES], io.BytesIO(data)
        try:
            header, offset = Header.read(file.read)
            if hashlib.sha256(content).digest() != data[-DIGEST_BYTES:]:
                raise ValueError("its hash is wrong")
            layers: dict[int, dict[str, Floats]] = {}
            for each, start in header.placed(offset, len(content)):
                array = np.frombuffer(content, each.dtype, prod(each.shape), start).reshape(each.shape)
                layers.setdefault(each.layer, {})[each.name] = array
        except DAMAGED as error:
            raise StateError(f"stored state is damaged: {error}") from error
        return cls(header.neurons, layers)

    def parts(self, layer: int, neurons: Neurons) -> Iterator[pb.StatePart]:
        """Return the arrays of some of its neurons of one layer, in parts of PART_BYTES, or of a neuron."""
        return state_parts(self.neurons, self.layers, layer, neurons)


def state_parts(
    held: Sequence[Neurons], layers: Mapping[int, Mapping[str, Rows]], layer: int, neurons: Neurons
) -> Iterator[pb.StatePart]:
    """Yield parts as `PieceState.parts` does, of arrays wherever they are. Raises StateError if the neurons
    are not `held`, and WireError where values are not finite.
    """
    start, stop = held[layer]
    if not start <= neurons[0] <= neurons[1] <= stop:
        raise StateError(f"asked for neurons {neurons} of layer {layer}, this piece holds {(start, stop)}")
    arrays = layers.get(layer, {})
    if not arrays:
        return  # neurons that have no weights, as samples have none in a network that is trained whole
    row = max(1, sum(4 * prod(array.shape[1:]) for array in arrays.values()))
    step = max(1, PART_BYTES // row)
    for a in range(neurons[0], neurons[1], step):
        b = min(a + step, neurons[1])
        part = pb.StatePart(layer=layer, neurons=pb.Range(start=a, stop=b))
        for name, array in arrays.items():
            try:
                part.arrays.add(name=name, values=encode_exactly(array[a - start : b - start]))
            except WireError as error:
                raise WireError(f"{name} of layer {layer}: {error}") from error
        yield part


def _zeros(shape: Sequence[int], dtype: str) -> Array:
    return np.zeros(shape, dtype)


def check_codes(values: Floats, name: str) -> None:
    """Raise WireError if values, float32 [...], are no codes of an array that is held as int8."""
    if ((np.rint(values) != values) | (np.abs(values) > LARGEST_CODE)).any():
        raise WireError(f"{name[:80]} holds values that are no whole numbers up to {LARGEST_CODE}")


class PartialState:
    """A piece's state while its parts arrive. Neurons that were not due, twice sent or of a wrong shape are
    refused.
    """

    def __init__(
        self,
        manifest: Manifest,
        neurons: Sequence[Neurons],
        *,
        rank: bool,
        zeros: Callable[[Sequence[int], str], Array] = _zeros,
    ) -> None:
        """Prepare to take a piece's parts. `rank`: whether |gradient| is accumulated for sharing. `zeros`
        makes the arrays [...] of a type where a program reaches them.
        """
        kept = kinds_of(manifest.optimizer.slots, rank=rank)
        self._neurons = tuple(neurons)
        self._layers: dict[int, dict[str, Floats]] = {}
        self._missing: dict[int, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
        for layer, (start, stop) in enumerate(self._neurons):
            if manifest.layers[layer].owned != stop - start:
                raise StateError(
                    f"program is for {manifest.layers[layer].owned} neurons of layer {layer}, "
                    f"the piece has {stop - start}; plan and export again"
                )
        for array in manifest.arrays:
            start, stop = self._neurons[array.layer]
            arrays = self._layers.setdefault(array.layer, {})
            for kind in kept if array.trained else (VALUE,):
                arrays[f"{kind}/{array.name}"] = zeros((stop - start, *array.shape), array.dtype)
            self._missing[array.layer] = np.ones(stop - start, np.bool_)

    @property
    def complete(self) -> bool:
        return not any(missing.any() for missing in self._missing.values())

    def expect_nothing(self) -> None:
        """Expect no part from any device: the server's patches will be the whole state."""
        for missing in self._missing.values():
            missing[:] = False

    def add(self, part: pb.StatePart) -> None:
        """Take a part. Raises WireError if it does not fit."""
        layer, a, b = part.layer, part.neurons.start, part.neurons.stop
        held = self._neurons[layer] if layer < len(self._neurons) else (0, 0)
        if layer not in self._missing and held[1] > held[0] and not part.arrays:
            return  # neurons that have no weights
        if layer not in self._missing:
            raise WireError(f"state of layer {layer}, of which this piece holds nothing")
        start, stop = self._neurons[layer]
        if not start <= a < b <= stop or not self._missing[layer][a - start : b - start].all():
            raise WireError(f"state of neurons [{a}, {b}) of layer {layer}: not due here, or sent twice")
        arrays = self._layers[layer]
        for named in part.arrays:
            if named.name not in arrays:
                raise WireError(f"state holds an unknown array {named.name[:80]!r}")
            target = arrays[named.name][a - start : b - start]
            values = decode_tensor(named.values, target.shape)
            if target.dtype.kind == "i":
                check_codes(values, named.name)
            target[...] = values
        self._missing[layer][a - start : b - start] = False

    def finish(self, *, fresh: bool = False) -> PieceState:
        """Return the whole state; `fresh` forgets what was accumulated for the last sharing."""
        if not self.complete:
            raise StateError("state is not complete")
        for arrays in self._layers.values():
            for name, array in arrays.items():
                if fresh and name.startswith("gradient/"):
                    array[...] = 0
        return PieceState(self._neurons, self._layers)
