"""Files that a crash or a full disk leaves whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
