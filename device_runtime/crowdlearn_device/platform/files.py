"""Files that a crash or a full disk leaves whole, and files of others that are not written over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """All of the content or the old file, whatever happens meanwhile."""
    with replacing(path, private=private) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once all of it is on disk; a `private` one only its
    owner can read.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if private:
            partial.unlink(missing_ok=True)  # one that others can read stays so
        mode = 0o600 if private else 0o666
        with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()  # the disk may be full
        raise


def not_to_write(path: Path, *, force: bool, is_own: Callable[[str], bool] = lambda text: False) -> str:
    """Make the folder of `path`; why a command may not write the file, "" where it may.

    It may not where something would be lost: where there is a file that, by its text, is not the command's
    own, unless `force`. Raises OSError where the folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if path.is_file() and not force and not is_own(path.read_text("utf-8", errors="replace")):
        return (
            f"{path} is there already, and not as this command wrote it; "
            "name another file, or replace it with --force"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return f"{path} cannot be written; look at the folder's permissions"
    return ""
