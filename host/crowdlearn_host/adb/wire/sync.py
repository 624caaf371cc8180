"""The file service of adb (`sync:`): packets as bytes, for the host and for the virtual phone."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from crowdlearn_host.adb.wire.messages import ProtocolError
from crowdlearn_host.adb.wire.stream import ByteStream
from crowdlearn_host.errors import FleetError

MAX_CHUNK = 1 << 16
MAX_PATH = 1024
MODE_BYTES = 7
"""The most bytes behind the path of a file that is sent: a comma and its mode."""
REQUEST = struct.Struct("<4sI")
STAT_V1 = struct.Struct("<4sIII")
STAT_V2 = struct.Struct("<4sIQQIIIIQqqq")
DENT_V1 = struct.Struct("<4sIIII")
DENT_V2 = struct.Struct("<4sIQQIIIIQqqqI")


@dataclass(frozen=True)
class FileStat:
    """The facts of a file on a phone: st_mode, size in bytes, mtime in seconds, errno (0: it exists)."""

    mode: int
    size: int
    mtime: int
    error: int = 0


def remote_name(path: str) -> bytes:
    """Return a path of the phone as bytes, as the system's names are: UTF-8 or not.

    Raises FleetError for a path that no request holds.
    """
    name = os.fsencode(path)
    if b"\0" in name:
        raise FleetError(f"{path!r} holds a NUL, which no path does; name another file on the phone")
    if len(name) > MAX_PATH - MODE_BYTES:
        raise FleetError(
            f"{path[:40]!r}... is a path of {len(name)} bytes, and adb carries {MAX_PATH - MODE_BYTES}; "
            "name a shorter one on the phone"
        )
    return name


class Reader:
    """Exact counts of bytes from a stream."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    async def exactly(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises ProtocolError at the end of the stream."""
        parts = []
        while count:
            if not self._rest:
                self._rest = memoryview(await self._stream.read())
                if not self._rest:
                    raise ProtocolError(f"{self._stream.service!r} ended {count} bytes early")
            parts.append(self._rest[:count])
            self._rest = self._rest[len(parts[-1]) :]
            count -= len(parts[-1])
        return b"".join(parts)

    async def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        """Return the next fields of a packet."""
        return form.unpack(await self.exactly(form.size))

    async def text(self, length: int, limit: int = MAX_PATH) -> str:
        """Return a string of `length` bytes, refused above `limit`."""
        if length > limit:
            raise ProtocolError(
                f"{self._stream.service!r}: a text of {length} bytes; at most {limit} are allowed"
            )
        return (await self.exactly(length)).decode(errors="surrogateescape")


def request(name: bytes, argument: bytes | int) -> bytes:
    """Return a request packet: four letters, then a length and that many bytes, or a number."""
    if isinstance(argument, int):
        return REQUEST.pack(name, argument)
    return REQUEST.pack(name, len(argument)) + argument


def data_packets(content: memoryview, limit: int) -> Iterator[bytes]:
    """Yield content as DATA packets of at most 64 KiB, as many together as fit into `limit` bytes."""
    per_write = max(1, limit // (REQUEST.size + MAX_CHUNK))
    chunk = min(MAX_CHUNK, limit - REQUEST.size)
    for at in range(0, len(content), per_write * chunk):
        parts: list[bytes | memoryview] = []
        for start in range(at, min(at + per_write * chunk, len(content)), chunk):
            piece = content[start : start + chunk]
            parts += [REQUEST.pack(b"DATA", len(piece)), piece]
        yield b"".join(parts)
