"""Large messages: each in the one place where it stays, in memory or on disk."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import cast

try:
    from websockets.speedups import apply_mask
except ImportError:  # a wheel without compiled parts
    from websockets.utils import apply_mask

PART_BYTES = 256 << 10
"""Longer messages go out in parts, so that no buffer holds a second copy."""
HEAD_BYTES = 20
KEPT_BYTES = 1 << 20
"""The most bytes that memory holds of a message that comes onto disk."""


class _Bytes(bytearray):
    __slots__ = ("__weakref__",)


class _InFile(mmap.mmap):
    """Bytes of a file without a name, of which memory holds what is looked at."""

    def let_go(self) -> None:
        """Have memory hold none of them, where the system knows how; they stay in the file."""
        if (forget := getattr(mmap, "MADV_DONTNEED", None)) is not None:
            self.madvise(forget)


def let_go(content: object) -> None:
    """Have memory hold nothing of what lies on disk."""
    if isinstance(content, _InFile):
        content.let_go()


class LargeMessage:
    """A message whose length is known, in the one place where it stays; `key` is the mask of its bytes, and
    `give_up` ends the connection that it comes over.
    """

    def __init__(self, length: int, key: bytes, give_up: Callable[[], None] = lambda: None) -> None:
        self.length, self.give_up = length, give_up
        self._key, self._at = key, 0
        self._begun: list[bytes] = []
        """The bytes that come before there is room."""
        self._content: _Bytes | _InFile | None = None

    def make_room(self) -> bytearray | mmap.mmap:
        """Return the place of the message, taking the memory for it if there is none."""
        return self._content if self._content is not None else self._put_into(_Bytes(self.length))

    def make_room_in(self, folder: Path) -> None:
        """Have the message lie on disk, in a file of the folder that has no name. Raises OSError if there is
        no room for it.
        """
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, self.length)  # a full disk is told of here, not later
            self._put_into(_InFile(file.fileno(), self.length))

    def _put_into(self, content: _Bytes | _InFile) -> _Bytes | _InFile:
        self._content = content
        begun, self._begun, self._at = self._begun, [], 0
        for data in begun:
            self.add(data)
        return content

    def when_gone(self, act: Callable[[], None]) -> None:
        """Call a function once the message is dropped everywhere. From now on there is room for the
        message.
        """
        weakref.finalize(self.make_room(), act).atexit = False

    @property
    def head(self) -> bytes:
        """Return the first HEAD_BYTES, which have come."""
        head = bytes(self._begun[0] if self._content is None else self._content[:HEAD_BYTES])[:HEAD_BYTES]
        return apply_mask(head, self._key) if self._key else head

    @property
    def come(self) -> int:
        """Return the bytes that have come."""
        return self._at

    @property
    def is_whole(self) -> bool:
        """Return True if nothing is missing."""
        return self._at == self.length

    def add(self, data: bytes) -> int:
        """Take what belongs to the message from the beginning of `data`; how many bytes that is."""
        taken = min(len(data), self.length - self._at)
        if self._content is None:
            self._begun.append(data[:taken])
        else:
            self._content[self._at : self._at + taken] = data[:taken]
            if self._at // KEPT_BYTES < (self._at + taken) // KEPT_BYTES:
                let_go(self._content)
        self._at += taken
        return taken

    def content(self) -> bytes:
        """Return the message, unmasked: a buffer of bytes without a copy, which is not written to any
        more.
        """
        content = self.make_room()
        if self._key:
            for at in range(0, self.length, PART_BYTES):  # a multiple of the key's length
                part = bytes(memoryview(content)[at : at + PART_BYTES])
                content[at : at + len(part)] = apply_mask(part, self._key)
                let_go(content)
        let_go(content)
        return cast(bytes, content)
