"""A snapshot that a device inherits: parts wait on disk until enough heirs have sent shares of its key."""

from __future__ import annotations

import struct
from pathlib import Path

from crowdlearn_device.errors import AggregationError, WireError
from crowdlearn_device.privacy.aggregation.shamir import join
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import MAX_FRAME, decode_message
from crowdlearn_device.security.snapshot import SnapshotOpener

_LENGTH = struct.Struct("<I")


class Inheritance:
    """The snapshot of one piece, opened to `path`. It is complete once its last part is opened."""

    def __init__(self, run: str, path: Path) -> None:
        self._run, self._path = run, path
        self._waiting = path.with_name(f"{path.name}.sealed")
        self._shares: dict[int, bytes] = {}
        self._heirs: dict[int, int] = {}
        """The point of each heir's share."""
        self._needed = -1
        self._opener: SnapshotOpener | None = None
        self._last = False

    def take_first(self, first: pb.Snapshot, point: int, share: bytes) -> None:
        """Take this device's own share of the key, or the key with point 0, and what the first part tells."""
        self._path.unlink(missing_ok=True)
        self._waiting.unlink(missing_ok=True)
        if bool(point) != bool(first.needed) or (point and first.needed < 2):
            raise WireError(f"snapshot of piece {first.piece} of which {first.needed} heirs hold the key")
        self._heirs = {key.device: key.point for key in first.keys}
        self._needed = first.needed
        if not point:
            self._opener = SnapshotOpener(self._run, share)
            return
        self._shares[point] = share
        self._join()

    def take_share(self, sender: int, share: pb.KeyShare) -> bool:
        """Take another heir's share; True if the snapshot is complete with it.

        Raises WireError if this heir sent one before, or it is no heir's.
        """
        known = self._heirs.get(sender, share.point) if self._needed >= 0 else share.point
        if share.point in self._shares or not 0 < share.point < 256 or known != share.point:
            raise WireError(f"device {sender} sends share {share.point} of a key, which is not due")
        self._shares[share.point] = share.share
        if self._opener is None and self._needed >= 0:
            self._join()
            return self._open_waiting()
        return False

    def _join(self) -> None:
        if len(self._shares) < self._needed:
            return
        try:
            key = join(self._shares, self._needed)
            self._opener = SnapshotOpener(self._run, key)
        except (AggregationError, ValueError) as error:
            raise WireError(f"shares of a snapshot's key do not give one: {error}") from error

    def take_part(self, part: pb.Snapshot) -> bool:
        """Open a part, or keep it until the key is here; True if the snapshot is complete with it."""
        if self._needed < 0:
            raise WireError(f"part {part.part} of the snapshot of piece {part.piece} came before its first")
        if self._opener is None:
            data = part.SerializeToString()
            with self._waiting.open("ab") as file:
                file.write(_LENGTH.pack(len(data)) + data)
            return False
        if self._waiting.exists():
            self._open_waiting()
        return self._open(part)

    def _open(self, part: pb.Snapshot) -> bool:
        assert self._opener is not None
        content = self._opener.open(part)
        with self._path.open("ab" if part.part else "wb") as file:
            file.write(content)
        self._last = part.part == part.parts - 1
        return self._last

    def _open_waiting(self) -> bool:
        """Open the parts that wait; True if the last one is among them."""
        if self._opener is None or not self._waiting.exists():
            return False
        with self._waiting.open("rb") as file:
            while prefix := file.read(_LENGTH.size):
                (length,) = _LENGTH.unpack(prefix)
                if length > MAX_FRAME:
                    raise WireError("a part of a snapshot is too long")
                self._open(decode_message(pb.Snapshot, file.read(length)))
        self._waiting.unlink()
        return self._last
