"""The state of a piece at a boundary, in memory, on disk and in transit."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import wire_pb2 as pb
from .errors import StateError, WireError
from .files import replacing
from .manifest import Manifest
from .wire import Floats, decode_tensor, encode_tensor

KINDS = ("value", "momentum", "gradient")
"""value: the array itself. momentum: the optimizer's. gradient: |gradient| accumulated since the last
sharing.
"""
PART_BYTES = 256 << 10
"""A device may find a dozen of them waiting before it looks."""
_MAGIC = b"CLSTATE1"
_DIGEST = 32
MAX_HEADER = 1 << 20

Neurons = tuple[int, int]


@dataclass(frozen=True)
class PieceState:
    """Arrays of a piece by layer and name; dimension 0 runs over the piece's neurons of that layer."""

    neurons: tuple[Neurons, ...]
    layers: Mapping[int, Mapping[str, Floats]]

    def blocks(self) -> Iterator[bytes | memoryview]:
        """The state's bytes, without a copy of its arrays."""
        header = {
            "neurons": self.neurons,
            "arrays": [
                [layer, name, array.shape]
                for layer, arrays in self.layers.items()
                for name, array in arrays.items()
            ],
        }
        text = json.dumps(header).encode()
        head = _MAGIC + struct.pack("<I", len(text)) + text
        digest = hashlib.sha256(head)
        yield head
        for arrays in self.layers.values():
            for array in arrays.values():
                block = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data
                digest.update(block)
                yield block
        yield digest.digest()

    def to_bytes(self) -> bytes:
        return b"".join(self.blocks())

    @classmethod
    def from_bytes(cls, data: bytes) -> PieceState:
        """The state that `data` holds, read-only and in the same memory. Raises StateError where it is not
        exactly one.
        """
        try:
            if data[:8] != _MAGIC:
                raise ValueError("no state file")
            content, digest = memoryview(data)[:-_DIGEST], data[-_DIGEST:]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("its hash is wrong")
            (length,) = struct.unpack_from("<I", content, 8)
            if length > MAX_HEADER:
                raise ValueError("header too long")
            header = json.loads(bytes(content[12 : 12 + length]))
            neurons = tuple((int(a), int(b)) for a, b in header["neurons"])
            offset = 12 + length
            layers: dict[int, dict[str, Floats]] = {}
            for layer, name, shape in header["arrays"]:
                count = int(np.prod(shape, dtype=np.int64))
                start, stop = neurons[layer]
                if shape[0] != stop - start:
                    raise ValueError(f"{name} is of {shape[0]} neurons, not of {stop - start}")
                if count < 0 or offset + 4 * count > len(content):
                    raise ValueError("arrays longer than the file")
                array = np.frombuffer(content, "<f4", count, offset).reshape(shape)
                layers.setdefault(int(layer), {})[str(name)] = array
                offset += 4 * count
            if offset != len(content):
                raise ValueError("file longer than its arrays")
            return cls(neurons, layers)
        except (ValueError, LookupError, TypeError, ArithmeticError, struct.error, RecursionError) as error:
            raise StateError(f"stored state is damaged: {error}") from error

    def values_only(self) -> PieceState:
        """Without what only training needs."""
        layers = {
            layer: {name: array for name, array in arrays.items() if name.startswith("value/")}
            for layer, arrays in self.layers.items()
        }
        return PieceState(self.neurons, layers)

    def parts(self, layer: int, neurons: Neurons) -> Iterator[pb.StatePart]:
        """The arrays of some of its neurons of one layer, in parts of a few megabytes."""
        start, stop = self.neurons[layer]
        if not start <= neurons[0] <= neurons[1] <= stop:
            raise StateError(
                f"asked for neurons {neurons} of layer {layer}, this piece holds {(start, stop)}"
            )
        arrays = self.layers.get(layer, {})
        row = max(1, sum(array[:1].nbytes for array in arrays.values()))
        step = max(1, PART_BYTES // row)
        for a in range(neurons[0], neurons[1], step):
            b = min(a + step, neurons[1])
            part = pb.StatePart(layer=layer, neurons=pb.Range(start=a, stop=b))
            for name, array in arrays.items():
                try:
                    part.arrays.add(name=name, values=encode_tensor(array[a - start : b - start]))
                except WireError as error:
                    raise WireError(f"{name} of layer {layer}: {error}") from error
            yield part


class PartialState:
    """A piece's state while its parts arrive. Neurons that were not due, twice sent or of a wrong shape are
    refused.
    """

    def __init__(self, manifest: Manifest, neurons: Sequence[Neurons], *, rank: bool) -> None:
        """`rank`: whether |gradient| is accumulated for sharing."""
        kept = [
            kind for kind, needed in zip(KINDS, (True, manifest.momentum > 0, rank), strict=True) if needed
        ]
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
            for kind in kept if array.trained else KINDS[:1]:
                arrays[f"{kind}/{array.name}"] = np.zeros((stop - start, *array.shape), np.float32)
            self._missing[array.layer] = np.ones(stop - start, np.bool_)

    @property
    def complete(self) -> bool:
        return not any(missing.any() for missing in self._missing.values())

    def expect_nothing(self) -> None:
        """Nobody gives any part: the state is what the server's patches will say."""
        for missing in self._missing.values():
            missing[:] = False

    def add(self, part: pb.StatePart) -> None:
        """Take a part. Raises WireError where it does not fit."""
        layer, a, b = part.layer, part.neurons.start, part.neurons.stop
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
            target[...] = decode_tensor(named.values, target.shape)
        self._missing[layer][a - start : b - start] = False

    def finish(self, *, fresh: bool = False) -> PieceState:
        """The whole state; `fresh` forgets what was accumulated for the last sharing."""
        if not self.complete:
            raise StateError("state is not complete")
        for arrays in self._layers.values():
            for name, array in arrays.items():
                if fresh and name.startswith("gradient/"):
                    array[...] = 0
        return PieceState(self._neurons, self._layers)


class StateStore:
    """Piece states on the device's disk, one file a point (generation, boundary), written whole or not at
    all.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*.partial"):
            leftover.unlink()

    def _path(self, generation: int, boundary: int) -> Path:
        return self._folder / f"{generation:08d}-{boundary:012d}.state"

    def save(self, generation: int, boundary: int, state: PieceState) -> None:
        with replacing(self._path(generation, boundary)) as file:
            for block in state.blocks():
                file.write(block)

    def load(self, generation: int, boundary: int) -> PieceState:
        """Raises StateError where this device does not hold that point."""
        try:
            data = self._path(generation, boundary).read_bytes()
        except FileNotFoundError as error:
            raise StateError(
                f"no state of generation {generation} at boundary {boundary} on this device"
            ) from error
        return PieceState.from_bytes(data)

    def points(self) -> list[tuple[int, int]]:
        """Every point held, oldest first."""
        points = []
        for path in self._folder.glob("*.state"):
            generation, boundary = path.stem.split("-")
            points.append((int(generation), int(boundary)))
        return sorted(points)

    def forget_before(self, generation: int, boundary: int) -> None:
        for point in self.points():
            if point < (generation, boundary):
                self._path(*point).unlink(missing_ok=True)
