"""Programs that a device lacks and gets from the server, as one does that joined over the network."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crowdlearn_device.errors import ProgramError, WireError
from crowdlearn_device.program.executor import Load, ProgramStore, load_program
from crowdlearn_device.protocol import wire_pb2 as pb

MAX_PROGRAM = 256 << 20
"""Bytes of the largest program file that a device takes."""


@dataclass
class Fetching:
    """The assignment that is `waiting` for its program, and the `file` of it that is on its way.

    Until then everything else of that generation can wait too: no device goes on without this device's key.
    """

    folder: Path
    store: ProgramStore
    waiting: pb.Assign | None = None
    file: PartialFile | None = None

    @classmethod
    def into(cls, home: Path, load: Load = load_program) -> Self:
        """Return the fetching of programs into HOME/programs; `load` loads them."""
        folder = home / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder, ProgramStore(folder, load))

    def missing(self, assign: pb.Assign) -> tuple[str, str] | None:
        """Return hash and suffix of the next file that an assignment needs, its manifest first; None if all
        are here. Raises WireError if it names none.
        """
        if assign.piece >= len(assign.pieces):
            raise WireError(f"assignment of piece {assign.piece} of {len(assign.pieces)}")
        manifest = assign.keep_program or assign.pieces[assign.piece].program
        if not self.store.has(manifest, ".json"):
            return manifest, ".json"
        if not self.store.has(program := self.store.manifest(manifest).program, ".pte"):
            return program, ".pte"
        return None

    def give_up(self) -> None:
        """Wait for no program any more."""
        self.waiting = self.file = None


class PartialFile:
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
        self._hash.update(chunk.data)
        self._have += len(chunk.data)
        with self._partial.open("ab") as file:
            file.write(chunk.data)
            if self._have == chunk.size:  # a name whose content a power cut took is never asked for again
                file.flush()
                os.fsync(file.fileno())
        if self._have == chunk.size:
            if self._hash.hexdigest() != self._sha256:
                raise ProgramError(f"what the server sent as program {self._sha256} has another hash")
            os.replace(self._partial, self._path)
            self.complete = True
