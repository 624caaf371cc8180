"""Files that a crash or a full disk leaves whole, and files of others that are not written over."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS})
"""Errors of writing to a file that is open; the system does not name it."""
MAX_OWN = 64 << 20
"""Bytes of a file by which a command knows its own."""
MAX_NAME = 255 - len("..partial")
"""Bytes of a file name that leave room for the name of its partial file."""


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write all of the content, or leave the old file, whatever happens meanwhile."""
    with replacing(path, private=private) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write to, which takes the place of `path` once all of it is on disk.

    Only its owner can read a `private` one; another keeps the permissions of the file that it replaces. A
    link stays, and what it points to is replaced. A pipe or terminal is written to as it is.
    """
    with naming(path):
        target = _target(path)
        if target.exists() and not target.is_file():
            # What is read meanwhile, or is a folder; a pipe that nobody reads would keep us for ever.
            handle = os.open(target, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(handle, True)
            with os.fdopen(handle, "wb") as file:
                yield file
            return
        partial = _partial(target)
        try:
            if private:
                partial.unlink(missing_ok=True)  # one that others can read stays so
            with open(partial, "wb", opener=lambda name, flags: os.open(name, flags, _mode(private))) as file:
                if not private and target.exists():
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
            settle(target.parent)
        except BaseException:
            with suppress(OSError):
                partial.unlink()  # the disk may be full
            raise


def settle(folder: Path) -> None:
    """Have the names in a folder on disk, as far as its file system knows how. Until then a power cut may
    give a file that was replaced its old content back.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have an error of the disk name the file that was written, which the system does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None and "requested and" in str(error):  # as numpy tells that the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        own = error.filename is None and error.errno in OF_THE_DISK
        if own or error.filename == str(_partial(path)):
            error.filename = str(path)
        raise


def _target(path: Path) -> Path:
    """Return the file that a link points to, or else the path; of links in a circle, one of them."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _partial(path: Path) -> Path:
    name = os.fsencode(path.name)
    return path.with_name(f".{path.name if len(name) <= MAX_NAME else sha256(name).hexdigest()}.partial")


def _mode(private: bool) -> int:
    return 0o600 if private else 0o666


def not_to_read(path: Path, most: int) -> str:
    """Return why a file is not to be read whole, in words that follow its name; "" if it is.

    A pipe or device may have no end, or nothing in it; a file has `most` bytes. Raises OSError if there is
    nothing at `path`.
    """
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        return "is a folder, and a file is needed"
    if not stat.S_ISREG(found.st_mode):
        return "is a pipe or device; write what comes from it to a file first"
    return f"has more than {most >> 20} MiB" if found.st_size > most else ""


def not_to_write(path: Path, *, force: bool, is_own: Callable[[str], bool] | None = None) -> str:
    """Make the folder of `path`; return why a command may not write the file, or "" if it may.

    A file that is there may be replaced with `force`, or if by its text `is_own` knows it as the command's
    own. Raises OSError if the folder cannot be made.
    """
    in_the_way = next((above for above in path.parents if above.exists() and not above.is_dir()), None)
    if in_the_way is not None:
        return f"{in_the_way} is a file, and {path} takes it for a folder; name another"
    if path.is_symlink() and _target(path).is_symlink():
        return f"{path} is a link that leads to itself; name another file"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        return f"{path} is a folder; name a file in it"
    if path.exists() and not path.is_file():
        return _refused(path)
    if path.is_file() and not force:
        if is_own is None:
            return f"{path} is there already; name another file, or replace it with --force"
        if not is_own(_beginning(path)):
            return (
                f"{path} is there already, and not as this command wrote it; "
                "name another file, or replace it with --force"
            )
    if path.is_file() and not os.access(path, os.W_OK):
        return f"{path} cannot be written; look at its permissions"
    partial = _partial(_target(path))
    try:  # folders of the system, as /proc, have permissions that tell nothing
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        partial.unlink()
    except OSError as error:
        return f"{path} cannot be written ({error.strerror}); name a file elsewhere"
    return ""


def _refused(path: Path) -> str:
    """Return why a pipe, terminal or other device takes nothing; "" if it does."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.ENXIO and path.is_fifo():
            return f"{path} is a pipe that nothing reads; start its reader first, or name a file"
        return f"{path} cannot be written ({error.strerror}); name another file"
    return ""


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_OWN).decode(errors="replace")
