"""Messages of the adb protocol as bytes: one codec for the host and for the virtual phone."""

import enum
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from crowdlearn_host.errors import FleetError

MAX_PAYLOAD = 1 << 20
VERSION = 0x01000001
"""Below it messages carry checksums."""

_HEADER = struct.Struct("<6I")
HEADER_BYTES = _HEADER.size


class ProtocolError(FleetError):
    """The peer broke the adb protocol; the connection cannot be used any further."""


class Command(enum.IntEnum):
    """The four letters that start a message, as a little-endian number."""

    CNXN = int.from_bytes(b"CNXN", "little")
    AUTH = int.from_bytes(b"AUTH", "little")
    STLS = int.from_bytes(b"STLS", "little")
    OPEN = int.from_bytes(b"OPEN", "little")
    OKAY = int.from_bytes(b"OKAY", "little")
    WRTE = int.from_bytes(b"WRTE", "little")
    CLSE = int.from_bytes(b"CLSE", "little")


_COMMANDS = {int(command): command for command in Command}
_new = tuple.__new__
"""Makes a named tuple at half the cost of a call of its class."""


class Message(NamedTuple):
    """One adb message; what the two arguments mean depends on the command."""

    command: Command
    arg0: int
    arg1: int
    payload: bytes = b""


def checksum(payload: bytes | memoryview) -> int:
    """Sum all bytes modulo 2**32, which the header of a message carries."""
    # The low half of an Adler-32 that starts at 0 is the byte sum modulo 65521: exact for 256 bytes at a
    # time, and five times as fast as sum().
    view = memoryview(payload)
    parts = [zlib.adler32(view[at : at + 256], 0) & 0xFFFF for at in range(0, len(view), 256)]
    return sum(parts) & 0xFFFFFFFF


def encode_header(message: Message, *, with_checksum: bool) -> bytes:
    """Return the 24 bytes in front of the payload; without checksum its field is 0 (protocol 0x01000001)."""
    command, arg0, arg1, payload = message
    total = checksum(payload) if with_checksum else 0
    return _HEADER.pack(command, arg0, arg1, len(payload), total, command ^ 0xFFFFFFFF)


class Decoder:
    """The decoder of a connection's byte stream into messages.

    Bytes go in through `buffer` and `received` (no copy), or through `feed`. Holds at most one message of the
    largest size; a header is checked before a byte of its payload is taken. Raises ProtocolError.
    """

    def __init__(self, *, max_payload: int = MAX_PAYLOAD) -> None:
        self.verify_checksums = False
        self._max_payload = max_payload
        self._buffer = bytearray(HEADER_BYTES + max_payload)
        self._view = memoryview(self._buffer)
        self._end = 0

    def buffer(self) -> memoryview:
        """Return where the next bytes of the connection belong; never empty."""
        return self._view[self._end :] if self._end else self._view

    def received(self, count: int) -> list[Message]:
        """Return the messages that are whole now that `count` more bytes stand in the buffer."""
        end = self._end = self._end + count
        buffer, view, messages, start = self._buffer, self._view, [], 0
        while end - start >= HEADER_BYTES:
            command, arg0, arg1, length, total, magic = _HEADER.unpack_from(buffer, start)
            known = _COMMANDS.get(command)
            if known is None or command ^ magic != 0xFFFFFFFF or length > self._max_payload:
                raise self._wrong(command, length, magic)
            begin, start_of_next = start + HEADER_BYTES, start + HEADER_BYTES + length
            if start_of_next > end:
                break
            payload = view[begin:start_of_next].tobytes()
            if self.verify_checksums and checksum(payload) != total:
                raise ProtocolError(
                    f"adb payload of {length} bytes does not sum to {total}: damaged on the way"
                )
            messages.append(_new(Message, (known, arg0, arg1, payload)))
            start = start_of_next
        if start:
            rest = self._end = end - start
            if rest:
                buffer[:rest] = buffer[start:end]
        return messages

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that `data` completes, whatever its length."""
        view = memoryview(data)
        while view:
            space = self.buffer()
            count = min(len(space), len(view))
            space[:count] = view[:count]
            view = view[count:]
            yield from self.received(count)

    def _wrong(self, command: int, length: int, magic: int) -> ProtocolError:
        """Return the error of a header that no adb peer sends."""
        if command ^ magic != 0xFFFFFFFF:
            why = f"adb message with command {command:#x} and magic {magic:#x}: not an adb peer"
        elif command not in _COMMANDS:
            why = f"adb message with unknown command {command:#x}"
        else:
            why = f"adb payload of {length} bytes; at most {self._max_payload} were agreed"
        return ProtocolError(why)
