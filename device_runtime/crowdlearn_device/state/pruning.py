"""Programs that a device keeps: those that are too many, too old or too large together are removed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("crowdlearn")

MAX_FILES, MAX_DAYS, MAX_BYTES = 256, 60, 1 << 30
"""The limits of the files of programs, and of those that no name leads to any more, each."""
DAY_SECONDS = 86400


def prune_programs(home: Path) -> None:
    """Remove from HOME/programs, and from what HOME/store holds without a name, the files that were used
    longest ago, and log what goes and what stays. A host that needs one again sends it again.
    """
    removed = _remove(old_files(_files(home / "programs")))
    named = {os.path.realpath(path) for path in home.rglob("*") if path.is_symlink()}
    nameless = [path for path in _files(home / "store") if str(path.resolve()) not in named]
    removed += _remove(old_files(nameless))
    if removed:
        kept = _files(home / "programs")
        size = sum(map(_size, kept))
        log.info("%d files of programs are removed; %d of %d bytes are kept", removed, len(kept), size)


def old_files(files: Iterable[Path]) -> list[Path]:
    """Return the files that are to go: the newest MAX_FILES stay, if they were used in the last MAX_DAYS and
    take no more than MAX_BYTES together.
    """
    going, kept, now = [], 0, time.time()
    for count, path in enumerate(sorted(files, key=_used, reverse=True), 1):
        size = _size(path)
        if count > MAX_FILES or now - _used(path) > MAX_DAYS * DAY_SECONDS or kept + size > MAX_BYTES:
            going.append(path)
        else:
            kept += size
    return going


def _files(folder: Path) -> list[Path]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.is_symlink() or path.is_file()]


def _used(path: Path) -> float:
    """Return when a file was written, read as a program, or named, in seconds since 1970."""
    found = path.lstat().st_mtime
    with suppress(OSError):
        found = max(found, path.stat().st_mtime)
    return found


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _remove(files: Iterable[Path]) -> int:
    count = 0
    for path in files:
        with suppress(OSError):
            path.unlink()
            count += 1
    return count
