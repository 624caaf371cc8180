"""Frames of WebSocket as bytes (RFC 6455): their heads, and messages that come in several of them."""

from __future__ import annotations

import struct

from crowdlearn_device.errors import WireError

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FINAL, MASKED = 0x80, 0x80
WHOLE = FINAL | BINARY
NO_KEY = bytes(4)
"""A mask that changes nothing. Masks are to keep what a browser's page chooses out of the hands of proxies
that take it for HTTP; what a device sends is sealed, and no page chooses it.
"""
NORMAL, PROTOCOL_ERROR, TOO_BIG, ABNORMAL = 1000, 1002, 1009, 1006

MEDIUM = struct.Struct(">BBH")
"""The head of a frame of 126 to 65535 bytes: nearly all have it."""
_MEDIUM_MASKED, _LONG = struct.Struct(">BBH4x"), struct.Struct(">BBQ")

MOST_FRAGMENTS = 4096
MOST_FRAGMENTED = 4 << 20
"""Bytes of a message that comes in fragments, which no device of ours sends."""


class Heads:
    """The heads of the frames that one side sends; a client's have a mask."""

    def __init__(self, *, client: bool) -> None:
        self._mask = NO_KEY if client else b""
        self._masked = MASKED if client else 0
        self._medium = self._masked | 126
        self._pack_medium = (_MEDIUM_MASKED if client else MEDIUM).pack

    def of(self, kind: int, length: int) -> bytes:
        """Return the head of a frame of this kind, whose content has so many bytes."""
        if 126 <= length < 1 << 16:
            return self._pack_medium(FINAL | kind, self._medium, length)
        if length < 126:
            return bytes((FINAL | kind, self._masked | length)) + self._mask
        return _LONG.pack(FINAL | kind, self._masked | 127, length) + self._mask


def length_of(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the length of a short or a long frame, 0 if its head is not whole, and where the mask or the
    content begins.
    """
    length = data[at + 1] & 0x7F
    if length < 126:
        return length, at + 2
    return int.from_bytes(data[at + 2 : at + 10], "big") if at + 10 <= end else 0, at + 10


class Fragments:
    """A message that comes in several frames; `parts` are those that have come, none if none is under way."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._bytes = 0

    def add(self, content: bytes) -> None:
        """Add the next part. Raises WireError if there are too many."""
        self.parts.append(content)
        self._bytes += len(content)
        if self._bytes > MOST_FRAGMENTED or len(self.parts) > MOST_FRAGMENTS:
            raise WireError(f"fragments of more than {MOST_FRAGMENTED} bytes, or {MOST_FRAGMENTS} of them")

    def whole(self) -> bytes:
        """Return the message, and forget it."""
        message = b"".join(self.parts)
        self.parts, self._bytes = [], 0
        return message
