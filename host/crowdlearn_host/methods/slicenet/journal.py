"""A shared model on disk: what entered it is appended, and taken together when that grows long.

    initial.npy       the model before the first round, float32 [weights]
    uploads.f32       the window's uploads, float32 [omega, weights], mapped into memory
    counters-N.npz    where each weight stood in the window when log N began; absent for N = 0
    rounds-N.log      records since then: length, CRC-32, content

Uploads that are newer than the counters are in the log, too: a crash at any moment is mended by taking the
log in again. A `Mark` says which log counts, and how much of it. The journal's owner writes the mark down
together with what depends on it: records behind the mark have never been.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.platform.files import write_atomically

from crowdlearn_host.common.files import DAMAGED_ARCHIVE
from crowdlearn_host.errors import RunError

from .window import Floats, Window, window_bytes

FRAME = struct.Struct("<II")
"""The head of each record: its length in bytes, and its CRC-32."""
LEAST_LOG = 16 << 20
"""Bytes of a log that is not worth taking together."""
OF_WINDOW = 0.5
"""The length of a log, as a part of the window's, up to which it is not worth that either."""


@dataclass(frozen=True)
class Mark:
    """The log `number`, of which the first `length` bytes count."""

    number: int = 0
    length: int = 0


class Journal:
    """The folder; one thread at a time. Raises OSError if the disk does not do what it is asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped: np.memmap[Any, np.dtype[np.float32]] | None = None
        self.mark = Mark()

    def create(self, initial: Floats, omega: int) -> Window:
        """Begin anew: an empty window, whose room on disk is taken at once.

        `initial` is float32 [floats].
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.iterdir():
            path.unlink()
        self._keep_initial(initial)
        with self._uploads.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * omega * len(initial))
            os.fsync(file.fileno())
        self._log(0).touch()
        self.mark = Mark()
        return self._window(omega, len(initial))

    def begin_with(self, initial: Floats, omega: int) -> Window:
        """Return the empty window of another model, which replaces the first before any round. After a crash
        there is either of them.

        `initial` is float32 [floats].
        """
        self._keep_initial(initial)
        return self._window(omega, len(initial))

    def _keep_initial(self, initial: Floats) -> None:
        content = io.BytesIO()
        np.save(content, initial.astype(np.float32))
        write_atomically(self._folder / "initial.npy", content.getvalue())

    def open(self, mark: Mark, initial: Floats, omega: int) -> Window:
        """Return the window as it was when the mark's log began; `records` is what has entered since.

        Raises RunError if the folder is damaged, or of another model or omega.
        The vector is float32 [floats].
        """
        try:
            if self._uploads.stat().st_size != 4 * omega * len(initial):
                raise RunError("the run's shared model is of another model or window; start a new run")
            window = self._window(omega, len(initial))
            if mark.number:
                with np.load(self._counters(mark.number), allow_pickle=False) as file:
                    window.counters()["counts"][:] = file["counts"]
                    window.counters()["next"][:] = file["next"]
            window.add_up()
            if self._log(mark.number).stat().st_size < mark.length:
                raise ValueError(f"{self._log(mark.number).name} is cut short")
            os.truncate(self._log(mark.number), mark.length)
        except DAMAGED_ARCHIVE as error:
            raise self._damaged(error) from error
        self.mark = mark
        self._sweep()
        return window

    def records(self) -> Iterator[bytes]:
        """Yield all that the log holds, in order. Raises RunError if it is damaged."""
        with self._log(self.mark.number).open("rb") as file:
            while header := file.read(FRAME.size):
                try:
                    length, checksum = FRAME.unpack(header)
                except struct.error as error:
                    raise self._damaged(error) from error
                content = file.read(min(length, self.mark.length))
                if len(content) != length or zlib.crc32(content) != checksum:
                    raise self._damaged(ValueError("a record is not as it was written"))
                yield content

    def append(self, records: Sequence[bytes]) -> Mark:
        """Return the mark behind these records, which are on disk when this returns; they count from `keep`
        on.
        """
        with self._log(self.mark.number).open("r+b") as file:
            file.truncate(self.mark.length)
            file.seek(self.mark.length)
            for record in records:
                file.write(FRAME.pack(len(record), zlib.crc32(record)))
                file.write(record)
            file.flush()
            os.fdatasync(file.fileno())
            return Mark(self.mark.number, file.tell())

    def keep(self, mark: Mark) -> None:
        """Keep a mark that is written down where it is safe; nothing before its log is needed any more."""
        over = mark.number != self.mark.number
        self.mark = mark
        if over:
            self._sweep()

    def is_long(self, window: Window, waiting: int) -> bool:
        """Return whether to take the log together, of which `waiting` bytes have not entered the window.

        The window's pages have to be on disk then. If groups share some of the weights, their places drift
        apart, and a few rounds change all pages. So a long window has a long log.
        """
        counters = sum(array.nbytes for array in window.counters().values())
        uploads, _ = window_bytes(len(window), window.omega)
        return self.mark.length > LEAST_LOG + max(4 * counters, int(OF_WINDOW * uploads)) + 2 * waiting

    def compact(self, window: Window, waiting: Sequence[bytes]) -> Mark:
        """Begin a new log with the records that wait, all others having entered `window`; its mark, for
        `keep`.
        """
        number = self.mark.number + 1
        if self._mapped is not None:
            self._mapped.flush()
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **window.counters())
        write_atomically(self._counters(number), content.getvalue())
        self._log(number).touch()
        return self._beginning(number).append(waiting)

    def _beginning(self, number: int) -> Journal:
        journal = Journal(self._folder)
        journal.mark = Mark(number)
        return journal

    def _window(self, omega: int, weights: int) -> Window:
        initial = np.load(self._folder / "initial.npy", mmap_mode="r", allow_pickle=False)
        self._mapped = np.memmap(self._uploads, np.float32, "r+", shape=(omega, weights))
        return Window(np.asarray(initial), omega, np.asarray(self._mapped))

    @property
    def _uploads(self) -> Path:
        return self._folder / "uploads.f32"

    def _counters(self, number: int) -> Path:
        return self._folder / f"counters-{number}.npz"

    def _log(self, number: int) -> Path:
        return self._folder / f"rounds-{number}.log"

    def _sweep(self) -> None:
        """Remove what belongs to other logs."""
        wanted = {self._log(self.mark.number), self._counters(self.mark.number)}
        for pattern in ("rounds-*.log", "counters-*.npz"):
            for path in set(self._folder.glob(pattern)) - wanted:
                path.unlink()

    def _damaged(self, error: Exception) -> RunError:
        return RunError(f"{self._folder} is damaged ({error}); start a new run in another folder")
