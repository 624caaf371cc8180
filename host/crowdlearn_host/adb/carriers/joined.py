"""An adb stream and a socket, joined: what comes by one goes out by the other, without a task for it."""

import asyncio
import socket
from typing import cast

from crowdlearn_host.adb.carriers.mux import Stream
from crowdlearn_host.adb.carriers.stream_transport import StreamTransport

HELD_BYTES = 1 << 18
"""The bytes that one side may leave untaken before the other is not read any more."""


class _Side(asyncio.Protocol):
    """One side: gives what comes to the `other`, and ends it when it ends itself."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other = self
        self.ended = asyncio.Event()
        self._waits = False
        """True while nothing is read here, because the other side has too much to take."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        to = self.other.transport
        if to is None:
            return
        to.write(data)
        if to.get_write_buffer_size() > HELD_BYTES and not self._waits and self.transport is not None:
            self._waits = True
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        """Do nothing yet: the other side is read on until too much is held."""

    def resume_writing(self) -> None:
        other = self.other
        if other._waits and other.transport is not None:
            other._waits = False
            other.transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        if self.other.transport is not None:
            self.other.transport.close()


async def joined(stream: Stream, sock: socket.socket) -> None:
    """Carry bytes between a stream and a connected socket until either ends and what came before has gone
    out; then close both.
    """
    near, far = _Side(), _Side()
    near.other, far.other = far, near
    near.transport = transport = StreamTransport(stream)
    transport.pause_reading()
    transport.set_protocol(near)
    try:
        await asyncio.get_running_loop().create_connection(lambda: far, sock=sock)
        transport.resume_reading()
        if near.ended.is_set() and far.transport is not None:
            far.transport.close()
        await near.ended.wait()
        await far.ended.wait()
    finally:
        transport.abort()
        if far.transport is None:
            sock.close()
        else:
            far.transport.abort()
