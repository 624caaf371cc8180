"""What one side of a connection has to say, in two lanes: what goes express overtakes the rest."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterator

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

CLOSE_SECONDS = 5.0
ROOM_BYTES = 1 << 20
"""A relay holds a sender back while more than this waits for its receiver."""
FRAGMENT_BYTES = 1 << 20
"""A longer message goes out in fragments, so that no buffer on its way holds a second copy."""
UNSENT_BYTES = 16 << 10
"""Of what is handed to the system: what lies there cannot be overtaken any more."""


class Line:
    """Sends frames over a connection, each lane in the order it was given.

    `put` always finds room. Who relays for others waits for `room` behind it and reads no further meanwhile,
    so that TCP holds back a device that sends more than its receiver takes.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._express: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._bytes = 0
        self._more = asyncio.Event()
        self._roomy = asyncio.Event()
        self._sent = asyncio.Event()
        self._roomy.set()
        self._sent.set()
        self._gone = False
        _queue_little(connection.transport)

    def put(self, data: bytes, *, express: bool = False) -> None:
        """Send a frame as soon as there is room; nothing where the other side has gone."""
        if self._gone:
            return
        (self._express if express else self._others).append(data)
        self._bytes += len(data)
        self._more.set()
        self._sent.clear()
        if self._bytes > ROOM_BYTES:
            self._roomy.clear()

    async def room(self) -> None:
        """Wait until not too much waits to be sent, or the other side has gone."""
        await self._roomy.wait()

    async def drain(self) -> None:
        """Send what was put, until the connection ends."""
        try:
            while True:
                await self._more.wait()
                while lane := self._express or self._others:
                    data = lane.popleft()
                    await self._connection.send(data if len(data) <= FRAGMENT_BYTES else _fragments(data))
                    self._bytes -= len(data)
                    del data  # a snapshot takes memory enough once
                    if self._bytes <= ROOM_BYTES:
                        self._roomy.set()
                self._more.clear()
                self._sent.set()
        except ConnectionClosed:
            pass
        finally:
            self._gone = True
            self._express.clear()
            self._others.clear()
            self._roomy.set()
            self._sent.set()

    def abort(self) -> None:
        """End the connection without a word: nobody listens at its other end."""
        self._connection.transport.abort()

    async def close(self) -> None:
        """Let what was put go out, then close."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sent.wait()
        except TimeoutError:
            pass
        await self._connection.close()


def _fragments(data: bytes) -> Iterator[bytes]:
    return (data[start : start + FRAGMENT_BYTES] for start in range(0, len(data), FRAGMENT_BYTES))


def _queue_little(transport: asyncio.Transport) -> None:
    """Keep what waits in the lanes, not in buffers behind them."""
    transport.set_write_buffer_limits(high=1)
    # Under TLS there is a second transport below, of which asyncio tells nobody; it would take 64 kB.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    if below is not None:
        below.set_write_buffer_limits(high=1)
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
