"""Confinement of a process, for good, to the files that it needs (Landlock, Linux 5.13 and later).

The kernel holds the process and all that it starts to it, whatever links lie where it may write.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_NO_NEW_PRIVS = 38
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_KNOWN = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""Rights by version of the interface; later versions know those of the third, and rights of other kinds."""
_TCP = 0b11
"""The rights to bind a TCP port and to dial one: version 4."""
_SCOPES = 0b11
"""No abstract Unix sockets of others, and no signals to them: version 6."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def landlock_version() -> int:
    """Return the version of the kernel's interface; 0 if it has none, or none that may be used."""
    found = ctypes.CDLL(None, use_errno=True).syscall(_CREATE_RULESET, None, 0, _VERSION)
    return max(0, int(found))


def confine(readable: Iterable[Path], writable: Iterable[Path], *, network: bool = True) -> bool:
    """Give up all files but those at or below the paths, which are there; return whether the kernel holds it.

    What is `readable` may be executed, too. Without `network` no TCP port is bound or dialled, from version 4
    on. Of a process that has threads only this one is held: confine it before others start. Raises OSError if
    the kernel knows how and refuses.
    """
    version = landlock_version()
    if not version:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    rights = _KNOWN[min(version, 3)]
    sizes = ctypes.sizeof(_Ruleset) if version >= 6 else 16 if version >= 4 else 8
    ports = 0 if network or version < 4 else _TCP
    ruleset = _Ruleset(rights, ports, _SCOPES if version >= 6 else 0)
    handle = _checked(libc.syscall(_CREATE_RULESET, ctypes.byref(ruleset), sizes, 0))
    try:
        for path in readable:
            _allow(libc, handle, path, (_EXECUTE | _READ_FILE | _READ_DIR) & rights)
        for path in writable:
            _allow(libc, handle, path, rights)
        _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, handle, 0))
    finally:
        os.close(handle)
    return True


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                rights &= _OF_FILES
            rule = _Beneath(rights, handle)
            _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
        finally:
            os.close(handle)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel does not confine this process: {os.strerror(number)}")
    return result
