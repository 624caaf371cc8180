"""Sealed pieces on the server's disk, which it cannot read: each is kept once all of its parts are there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.errors import WireError
from google.protobuf.message import DecodeError

from ..errors import RunError

_LENGTH = struct.Struct("<I")


@dataclass
class _Partial:
    """What came so far, the first part of it without its content."""

    first: pb.Snapshot
    file: BinaryIO
    parts: int = 0
    bytes: int = 0


class Snapshots:
    """A folder of them; what is cut off in the middle leaves those before."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._partial: dict[tuple[int, int], _Partial] = {}
        for leftover in folder.glob("*.partial"):
            leftover.unlink()

    def save(self, group: int, part: pb.Snapshot, limit: int) -> frozenset[int] | None:
        """Add the next part of a piece's snapshot; once all of it is on disk, who can read it.

        Raises WireError where another part was due, or all of them are more than `limit` bytes; what came of
        it is forgotten then.
        """
        path = self._path(group, part.generation, part.boundary, part.piece)
        partial = self._partial.pop((group, part.piece), None)
        if part.part == 0:
            if partial is not None:
                self._forget(partial)
            first = pb.Snapshot()
            first.CopyFrom(part)
            first.ClearField("sealed")
            partial = _Partial(first, path.with_suffix(".partial").open("wb"))
        content = part.SerializeToString()
        due = partial is not None and partial.parts == part.part and _same(partial.first, part)
        if partial is None or not due or partial.bytes + len(content) > limit:
            if partial is not None:
                self._forget(partial)
            raise WireError(
                f"part {part.part} of a snapshot of piece {part.piece} is not the next, "
                f"or more than {limit} bytes"
            )
        partial.parts, partial.bytes = partial.parts + 1, partial.bytes + len(content)
        try:
            partial.file.write(_LENGTH.pack(len(content)) + content)
            if not part.last:
                self._partial[group, part.piece] = partial
                return None
            with partial.file as file:
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            self._forget(partial)
            raise
        os.replace(file.name, path)
        return frozenset(key.device for key in partial.first.keys)

    def load(self, group: int, generation: int, boundary: int, piece: int) -> Iterator[pb.Snapshot]:
        """Its parts, in order. Raises RunError where it is not here or damaged."""
        path = self._path(group, generation, boundary, piece)
        try:
            with path.open("rb") as file:
                while length := file.read(_LENGTH.size):
                    (size,) = _LENGTH.unpack(length)
                    yield pb.Snapshot.FromString(file.read(size))
        except (OSError, DecodeError, struct.error) as error:
            raise RunError(f"snapshot {path.name} cannot be read: {error}") from error

    def forget_before(self, group: int, generation: int, boundary: int) -> None:
        """Older points' are of no use any more."""
        first = self._path(group, generation, boundary, 0).name.rsplit("-", 1)[0]
        for path in self._folder.glob(f"{group}-*.sealed"):
            if path.name.rsplit("-", 1)[0] < first:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        for partial in self._partial.values():
            self._forget(partial)
        self._partial = {}

    def _path(self, group: int, generation: int, boundary: int, piece: int) -> Path:
        return self._folder / f"{group}-{generation:08d}-{boundary:012d}-{piece}.sealed"

    def _forget(self, partial: _Partial) -> None:
        with suppress(OSError):  # a full disk: it is forgotten anyway
            partial.file.close()
        Path(partial.file.name).unlink(missing_ok=True)


def _same(first: pb.Snapshot, part: pb.Snapshot) -> bool:
    """Whether both are of one snapshot."""
    return all(
        getattr(first, name) == getattr(part, name)
        for name in ("generation", "boundary", "piece", "sender", "ephemeral")
    )
