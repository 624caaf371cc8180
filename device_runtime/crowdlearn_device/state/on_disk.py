"""Piece states on a device's disk, read as they are needed: none is ever in memory as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from crowdlearn_device.errors import StateError
from crowdlearn_device.platform.files import replacing
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Array

from .piece_state import DAMAGED, DIGEST_BYTES, PART_BYTES, Header, Neurons, PieceState, state_parts


@dataclass(frozen=True)
class StoredArray:
    """An array at `offset` of a file, whose rows are read when they are asked for."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def __getitem__(self, rows: slice, /) -> Array:
        start, stop, _ = rows.indices(self.shape[0])
        count = prod(self.shape[1:])
        offset = self.offset + np.dtype(self.dtype).itemsize * start * count
        values = np.fromfile(self.path, self.dtype, (stop - start) * count, offset=offset)
        return values.reshape(stop - start, *self.shape[1:])


@dataclass(frozen=True)
class StoredState:
    """A piece's state in a file."""

    neurons: tuple[Neurons, ...]
    layers: Mapping[int, Mapping[str, StoredArray]]

    @classmethod
    def open(cls, path: Path) -> StoredState:
        """Return the state in the file at `path`, all of which is checked. Raises StateError if it is not
        exactly one, and OSError where there is none.
        """
        with path.open("rb") as file:
            content = path.stat().st_size - DIGEST_BYTES
            try:
                header, offset = Header.read(file.read)
                layers: dict[int, dict[str, StoredArray]] = {}
                for each, start in header.placed(offset, content):
                    array = StoredArray(path, start, each.shape, each.dtype)
                    layers.setdefault(each.layer, {})[each.name] = array
                file.seek(0)
                digest = hashlib.sha256()
                for start in range(0, content, PART_BYTES):
                    digest.update(file.read(min(PART_BYTES, content - start)))
                if file.read() != digest.digest():
                    raise ValueError("its hash is wrong")
            except DAMAGED as error:
                raise StateError(f"stored state is damaged: {error}") from error
        return cls(header.neurons, layers)

    def values_only(self) -> StoredState:
        """Return the state without what only training needs."""
        layers = {
            layer: {name: array for name, array in arrays.items() if name.startswith("value/")}
            for layer, arrays in self.layers.items()
        }
        return replace(self, layers=layers)

    def parts(self, layer: int, neurons: Neurons) -> Iterator[pb.StatePart]:
        """Yield parts as `PieceState.parts` does; one at a time is read."""
        return state_parts(self.neurons, self.layers, layer, neurons)


class StateStore:
    """Piece states on the device's disk, one file a point (generation, boundary), written whole or not at
    all; and others' pieces while they arrive, which are given on and forgotten.
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

    def load(self, generation: int, boundary: int) -> StoredState:
        """Raise StateError if this device does not hold that point."""
        try:
            return StoredState.open(self._path(generation, boundary))
        except FileNotFoundError as error:
            raise StateError(
                f"no state of generation {generation} at boundary {boundary} on this device"
            ) from error

    def inherited(self, piece: int) -> Path:
        """Return where the state of another's piece is written, part by part. It outlives no connection."""
        return self._folder / f"inherited-{piece}.partial"

    def points(self) -> list[tuple[int, int]]:
        """Return every point held, oldest first."""
        points = []
        for path in self._folder.glob("*.state"):
            generation, boundary = path.stem.split("-")
            points.append((int(generation), int(boundary)))
        return sorted(points)

    def forget_before(self, generation: int, boundary: int) -> None:
        for point in self.points():
            if point < (generation, boundary):
                self._path(*point).unlink(missing_ok=True)
