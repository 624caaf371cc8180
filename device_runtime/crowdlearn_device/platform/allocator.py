"""The C library's allocator, told to give large arrays back."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
LARGE = 1 << 20


def return_large_blocks() -> None:
    """Let glibc return blocks of LARGE bytes to the system when they are freed; elsewhere nothing happens.

    By itself it raises that limit to the largest block it has seen, up to 32 MB. What lies between two arrays
    that live on then stays with the process.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE)
