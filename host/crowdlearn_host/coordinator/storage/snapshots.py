"""Sealed pieces on the server's disk, which it cannot read: each counts once all of its parts are there."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from crowdlearn_device.errors import WireError
from crowdlearn_device.platform.files import settle
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME, decode_message

from crowdlearn_host.errors import RunError

_LENGTH = struct.Struct("<I")
"""The number before each part in a file: its bytes."""


@dataclass
class _Arriving:
    """The parts of a snapshot that came so far."""

    path: Path
    of: tuple[object, ...]
    heirs: frozenset[int]
    due: int = 0
    bytes: int = 0

    def count(self, part: pb.Snapshot, size: int, limit: int) -> None:
        """Raise WireError if the part is not the next, or makes all of them more than `limit` bytes."""
        self.bytes += size
        if _common(part) != self.of or not part.part == self.due < part.parts:
            raise WireError(
                f"part {part.part} of {part.parts} of a snapshot of piece {part.piece} is not the next"
            )
        if self.bytes > limit:
            raise WireError(f"a snapshot of piece {part.piece} has more than {limit} bytes")
        self.due += 1


class Snapshots:
    """A folder of them. One that is cut off in the middle leaves those before."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._arriving: dict[tuple[int, int], _Arriving] = {}
        for leftover in folder.glob("*.partial"):
            leftover.unlink()
        self._kept: dict[int, set[Path]] = {}
        for path in folder.glob("*-*.sealed"):
            self._kept.setdefault(int(path.name.split("-", 1)[0]), set()).add(path)

    def save(self, group: int, part: pb.Snapshot, limit: int) -> frozenset[int] | None:
        """Add the next part of a piece's snapshot; who can read it, once all of it is on disk.

        Raises WireError if another part was due, or all of them are more than `limit` bytes; what came of
        it is forgotten then.
        """
        key = group, part.piece
        path = self._path(group, part.generation, part.boundary, part.piece)
        arriving = self._arriving.pop(key, None)
        if part.part == 0:
            if arriving is not None:
                arriving.path.unlink(missing_ok=True)
            heirs = frozenset(wrapped.device for wrapped in part.keys)
            arriving = _Arriving(path.with_suffix(".partial"), _common(part), heirs)
        if arriving is None:
            raise WireError(f"part {part.part} of a snapshot of piece {part.piece} came before its first")
        try:
            content = part.SerializeToString()
            arriving.count(part, len(content), limit)
            whole = part.part == part.parts - 1
            with arriving.path.open("ab" if part.part else "wb") as file:
                file.write(_LENGTH.pack(len(content)) + content)
                if whole:
                    file.flush()
                    os.fsync(file.fileno())
        except (WireError, OSError):
            arriving.path.unlink(missing_ok=True)
            raise
        if not whole:
            self._arriving[key] = arriving
            return None
        os.replace(arriving.path, path)
        settle(self._folder)
        self._kept.setdefault(group, set()).add(path)
        return arriving.heirs

    def load(self, group: int, generation: int, boundary: int, piece: int) -> Iterator[pb.Snapshot]:
        """Yield its parts, in order. Raises RunError if it is not here or damaged."""
        path = self._path(group, generation, boundary, piece)
        try:
            with path.open("rb") as file:
                number, parts = 0, 1
                while number < parts:
                    (size,) = _LENGTH.unpack(file.read(_LENGTH.size))
                    content = file.read(min(size, MAX_FRAME))
                    if len(content) != size:
                        raise WireError(f"part {number} is cut short")
                    part = decode_message(pb.Snapshot, content)
                    number, parts = number + 1, part.parts
                    yield part
        except (OSError, WireError, struct.error) as error:
            raise RunError(f"snapshot {path.name} cannot be read: {error}") from error

    def forget_before(self, group: int, generation: int, boundary: int) -> None:
        """Remove those of older points, which are of no use any more."""
        first = self._path(group, generation, boundary, 0).name.rsplit("-", 1)[0]
        for path in list(self._kept.get(group, ())):
            if path.name.rsplit("-", 1)[0] < first:
                path.unlink(missing_ok=True)
                self._kept[group].discard(path)

    def _path(self, group: int, generation: int, boundary: int, piece: int) -> Path:
        return self._folder / f"{group}-{generation:08d}-{boundary:012d}-{piece}.sealed"


def _common(part: pb.Snapshot) -> tuple[object, ...]:
    """Return what all parts of one snapshot have in common."""
    return part.generation, part.boundary, part.piece, part.sender, part.ephemeral, part.parts
