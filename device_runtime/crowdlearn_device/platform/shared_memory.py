"""Memory that two processes see, of a size that neither can change."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

_SEALS = 0b0111
"""No further seals, no smaller, no larger."""
_ADD_SEALS = 1033
_FAILED = ctypes.c_void_p(-1).value

Array = npt.NDArray[Any]


class SharedMemory:
    """Memory of `size` bytes behind a descriptor; they stay as long as an array of `array` does."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the memory of a descriptor, which stays the caller's. Raises OSError."""
        self.size = size
        libc = _libc()
        length, access = ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_WRITE
        place = libc.mmap(None, length, access, mmap.MAP_SHARED, descriptor, ctypes.c_int64(0))
        if place == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, f"{size} bytes of shared memory: {os.strerror(number)}")
        self._bytes: Any = (ctypes.c_ubyte * size).from_address(place)
        self.gone = weakref.finalize(self._bytes, libc.munmap, ctypes.c_void_p(place), length)

    def array(self, offset: int, dtype: np.dtype[Any], shape: Sequence[int]) -> Array:
        """Return an array of dtype and shape [...] at `offset`. Raises ValueError if it does not fit."""
        count = int(np.prod(shape, dtype=object))
        if not 0 <= offset <= self.size or count * dtype.itemsize > self.size - offset:
            raise ValueError(f"{list(shape)} {dtype} at {offset} of {self.size} bytes")
        if count == 0:
            return np.empty(shape, dtype)
        return np.frombuffer(self._bytes, dtype, count, offset).reshape(shape)


def new_memory(size: int) -> int:
    """Return a descriptor, the caller's to close, of `size` bytes of zeros. Raises OSError."""
    android = _android()
    if hasattr(os, "memfd_create") or android is None:
        return new_file(size)
    descriptor = int(android.ASharedMemory_create(b"crowdlearn", ctypes.c_size_t(size)))
    if descriptor < 0:
        raise OSError(-descriptor, f"{size} bytes of shared memory: {os.strerror(-descriptor)}")
    return descriptor


def new_file(size: int) -> int:
    """Return a descriptor as `new_memory` does, of a file: its size can be asked for, and others read it."""
    create = getattr(os, "memfd_create", None)
    if create is None:  # nothing seals a file: only what cannot call ftruncate is kept from making it smaller
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        _resized(descriptor, size)
        os.fchmod(descriptor, 0o444)  # Android's isolated processes are other users
        return descriptor
    import fcntl

    descriptor = create("crowdlearn", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    _resized(descriptor, size)
    with suppress(OSError):  # an emulator of a kernel may know no seals
        fcntl.fcntl(descriptor, _ADD_SEALS, _SEALS)
    return descriptor


def _resized(descriptor: int, size: int) -> None:
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise


@functools.cache
def _android() -> ctypes.CDLL | None:
    """Return Android's own library, which has memory for processes to share where Python knows none."""
    try:
        found = ctypes.CDLL("libandroid.so")
        return found if hasattr(found, "ASharedMemory_create") else None
    except OSError:
        return None


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    return libc
