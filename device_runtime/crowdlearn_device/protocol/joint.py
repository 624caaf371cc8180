"""Several messages for one receiver as the content of one envelope: one header, one seal, one way."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from crowdlearn_device.errors import WireError

JOINT_BYTES = 4 << 10
"""Messages travel together up to so many bytes. None can be read before the last of them is there, and others
wait behind them: 1.6 ms on a link of 20 Mbit/s.
"""
MOST_MORE = 255
"""The most messages beside the first: a byte of the header counts them."""


def joined(contents: Sequence[bytes]) -> bytes:
    """Return messages as one content: sizes of all but the last, uint32, then the messages. One is itself."""
    if len(contents) == 1:
        return contents[0]
    sizes = struct.pack(f"<{len(contents) - 1}I", *(len(each) for each in contents[:-1]))
    return b"".join((sizes, *contents))


def parted(content: bytes, more: int) -> list[bytes]:
    """Return the messages of a content, `more` beside the first. Raises WireError if they are not there."""
    if not more:
        return [content]
    at = 4 * more
    if len(content) < at:
        raise WireError(f"{more + 1} messages in an envelope of {len(content)} bytes")
    sizes = struct.unpack_from(f"<{more}I", content)
    if at + sum(sizes) > len(content):
        raise WireError(f"messages of {sizes} bytes and one more in an envelope of {len(content)} bytes")
    found = []
    for size in sizes:
        found.append(content[at : at + size])
        at += size
    return [*found, content[at:]]
