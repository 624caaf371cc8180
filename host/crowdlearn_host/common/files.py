"""Files of lines, and files and folders that one process uses at a time."""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from crowdlearn_host.errors import InUse

DAMAGED_ARCHIVE = (EOFError, OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile)
"""The errors that reading an .npz raises if it was cut short, or holds other arrays than it should."""


LOCK = ".lock"


@contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until no other thread or process is in its turn at `path`: to make it once, or to change it by
    what it says. The folder is made where it is missing; an empty file beside `path` stays.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(path.with_name(f".{path.name}.lock"), "w", opener=_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def appending(path: Path) -> BinaryIO:
    """Return a file to add lines to, written as they come; one that was cut short is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
    return path.open("ab", buffering=0)


def read_lines(
    path: Path, damaged: list[int] | None = None, whole: Callable[[dict[str, Any]], bool] = lambda line: True
) -> Iterator[dict[str, Any]]:
    """Yield the objects of a .jsonl file that are `whole`.

    Others, as those that a crash or a full disk cut short, are left out; their numbers, from 1, are added
    to `damaged`.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                content = json.loads(line)
            except (ValueError, RecursionError):
                content = None
            if isinstance(content, dict) and whole(content):
                yield content
            elif damaged is not None:
                damaged.append(number)


def locked(folder: Path) -> TextIO:
    """Return the folder's lock, held until it is closed or the process ends. Raises InUse if another process
    holds it.
    """
    lock = open(folder / LOCK, "w", opener=_private)  # noqa: SIM115 - the caller keeps it open
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise InUse(f"{folder} is in use by another process; wait for it or stop it") from error
    return lock


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
