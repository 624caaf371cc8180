"""Packets of the `shell,v2` service: standard streams apart, and an exit code."""

import enum
import struct
from collections.abc import Iterator

from crowdlearn_host.adb.wire.messages import MAX_PAYLOAD, ProtocolError

_HEADER = struct.Struct("<BI")


class Channel(enum.IntEnum):
    """The content of a shell packet."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    EXIT = 3
    CLOSE_STDIN = 4
    WINDOW_SIZE = 5


def encode(channel: Channel, data: bytes = b"") -> bytes:
    """Return one shell packet."""
    return _HEADER.pack(channel, len(data)) + data


class ShellDecoder:
    """The decoder of a stream's bytes into shell packets. Raises ProtocolError."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Channel, bytes]]:
        """Yield the packets that `data` completes."""
        self._pending += data
        while len(self._pending) >= _HEADER.size:
            number, length = _HEADER.unpack_from(self._pending)
            if number not in Channel._value2member_map_ or length > MAX_PAYLOAD:
                raise ProtocolError(f"shell packet of kind {number} with {length} bytes")
            stop = _HEADER.size + length
            if len(self._pending) < stop:
                return
            payload = bytes(self._pending[_HEADER.size : stop])
            del self._pending[:stop]
            yield Channel(number), payload
