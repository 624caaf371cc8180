"""A member that fetches the programs it lacks from the server, as a device does that joined over the
network.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DeviceError, ProgramError, WireError
from crowdlearn_device.platform.battery import DeviceState
from crowdlearn_device.program.executor import Load, ProgramStore, load_program
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.security.identity import Identity

from .member import Member

MAX_PROGRAM = 256 << 20
"""Bytes of the largest program file that a device takes."""


class FetchingMember(Member):
    """A member whose assignment waits until the program that it names is here, its manifest first.

    Until then everything else of that generation can wait too: no device goes on without this device's key.
    """

    def __init__(
        self,
        name: str,
        home: Path,
        identity: Identity,
        samples: int,
        load_data: Callable[[], Dataset],
        token: str,
        load: Load = load_program,
        binding: bytes = b"",
        state: DeviceState | None = None,
    ) -> None:
        self._folder = home / "programs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._store = ProgramStore(self._folder, load)
        self._waiting: pb.Frame | None = None
        self._file: _File | None = None
        super().__init__(name, home, identity, samples, load_data, self._store, token, None, binding, state)

    def _receive(self, frame: pb.Frame) -> None:
        kind = frame.WhichOneof("body")
        if kind == "assign" and (frame.assign.piece >= 0 or frame.assign.keep_program):
            self._waiting, self._file = frame, None
            self._equip()
        elif kind == "chunk":
            if self._file is None:
                raise WireError("bytes of a program that was not asked for")
            self._file.add(frame.chunk)
            if self._file.complete:
                self._file = None
                self._equip()
        else:
            super()._receive(frame)

    def _fault(self, error: DeviceError) -> None:
        self._waiting = self._file = None
        super()._fault(error)

    def _equip(self) -> None:
        """Ask for the next file that the waiting assignment needs, or let it go ahead."""
        if self._waiting is None:
            return
        assign = self._waiting.assign
        if assign.piece >= len(assign.pieces):
            raise WireError(f"assignment of piece {assign.piece} of {len(assign.pieces)}")
        manifest = assign.keep_program or assign.pieces[assign.piece].program
        if not self._store.has(manifest, ".json"):
            self._want(manifest, ".json")
        elif not self._store.has(program := self._store.manifest(manifest).program, ".pte"):
            self._want(program, ".pte")
        else:
            frame, self._waiting = self._waiting, None
            super()._receive(frame)

    def _want(self, sha256: str, suffix: str) -> None:
        self._generation = None
        self._file = _File(self._folder / (sha256 + suffix), sha256)
        self._send(pb.Frame(wanted=pb.Wanted(sha256=sha256)))


class _File:
    """A file while its bytes arrive; it gets its name once they are all there and hash to it."""

    def __init__(self, path: Path, sha256: str) -> None:
        self.complete = False
        self._path = path
        self._partial = path.with_suffix(".partial")
        self._partial.write_bytes(b"")
        self._sha256 = sha256
        self._hash = hashlib.sha256()
        self._have = 0

    def add(self, chunk: pb.Chunk) -> None:
        """Raise ProgramError if the server has no such file or other bytes, WireError where these are not the
        next.
        """
        if chunk.sha256 != self._sha256 or chunk.offset != self._have:
            raise WireError(f"bytes from {chunk.offset} of a program where those from {self._have} were due")
        if not chunk.data:
            raise ProgramError(
                f"the server has no program {self._sha256}; train with the same version on both"
            )
        if chunk.size > MAX_PROGRAM or self._have + len(chunk.data) > chunk.size:
            raise ProgramError(f"program of {chunk.size} bytes; at most {MAX_PROGRAM} are allowed")
        with self._partial.open("ab") as file:
            file.write(chunk.data)
        self._hash.update(chunk.data)
        self._have += len(chunk.data)
        if self._have == chunk.size:
            if self._hash.hexdigest() != self._sha256:
                raise ProgramError(f"what the server sent as program {self._sha256} has another hash")
            os.replace(self._partial, self._path)
            self.complete = True
