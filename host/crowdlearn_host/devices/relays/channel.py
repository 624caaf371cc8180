"""Messages between the host and a relay process: over a pair of sockets, or TLS from elsewhere."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from enum import IntEnum
from typing import Any, NamedTuple

HEAD = struct.Struct("<BBII")
"""Kind, detail, connection, and the bytes that follow."""
EXPRESS = 0x80
"""The detail of PUT for a frame that overtakes others."""
REPORT_SECONDS = 0.5
"""The seconds between two counts of a relay: a message is counted so late at most."""
MOST_BYTES = 65 << 20
"""The content of a message is at most a frame, and its header."""


class Kind(IntEnum):
    """The kinds of messages; to the host up to COUNTED and WORD, from it the rest."""

    LISTENING = 1  # JSON: the port
    ARRIVED = 2  # JSON: the device's address, and the path that it asked for
    FRAME = 3  # a frame of a device, unless it is an envelope for a device of the same group and relay
    WENT = 4  # <I: bytes of PUT that are no longer queued
    GONE = 5  # the reason, as text
    COUNTED = 6  # JSON: rows of number, way, purpose, bytes, messages
    SEATED = 7  # JSON: the device's number and group; from here on its envelopes are relayed
    GROUP = 8  # JSON: a group's number, generation and devices
    PUT = 9  # a frame to a device
    TAKEN = 10  # <I: bytes of FRAME that the host is done with
    CLOSE = 11  # JSON: close code and reason
    ABORT = 12
    WORD = 13  # to the host, first: what a relay that dials was started with
    CERTIFICATE = 14  # the host's certificate with its key, for a relay that dialled


class Message(NamedTuple):
    """A message of `kind` about a connection, which a relay numbers."""

    kind: Kind
    detail: int
    connection: int
    content: bytes

    def json(self) -> Any:
        """Return the content of a message that holds JSON."""
        return json.loads(self.content)

    def number(self) -> int:
        """Return the content of a message that holds a number."""
        return int.from_bytes(self.content, "little")


class Channel:
    """One end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        """Return the end that `sock` is."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    async def next(self, most: int = MOST_BYTES) -> Message | None:
        """Return the next message; None if the other process has ended, or sends more than `most` bytes."""
        try:
            kind, detail, connection, length = HEAD.unpack(await self._reader.readexactly(HEAD.size))
            if length > most:
                return None
            return Message(Kind(kind), detail, connection, await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, ValueError):
            return None

    def say(self, kind: Kind, connection: int = 0, content: bytes = b"", detail: int = 0) -> None:
        """Send a message; nothing if the other process has ended."""
        if not self._writer.is_closing():
            self._writer.write(HEAD.pack(kind, detail, connection, len(content)))
            self._writer.write(content)

    def say_json(self, kind: Kind, value: Any, connection: int = 0) -> None:
        """Send a message whose content is JSON."""
        self.say(kind, connection, json.dumps(value).encode())

    def say_number(self, kind: Kind, value: int, connection: int) -> None:
        """Send a message whose content is a number below 2**32."""
        self.say(kind, connection, value.to_bytes(4, "little"))

    async def drain(self) -> None:
        """Wait until the other side has taken most of what was said."""
        await self._writer.drain()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
