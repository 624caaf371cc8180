"""The way to one device."""

from __future__ import annotations

import asyncio
from collections import deque

from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

CLOSE_SECONDS = 5.0


class Line:
    """Sends frames to a device in the order they were given.

    What the server itself has to say always finds room. What it relays does not: a sender waits here while
    its receiver is slow, reads no further meanwhile, and so TCP holds back the device that sends too much.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._own: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._gone = False

    def put(self, data: bytes) -> None:
        """Send a frame of the server's own as soon as there is room; nothing where the device has gone."""
        if self._gone:
            return
        self._own.append(data)
        self._sent.clear()
        self._more.set()

    async def relay(self, data: bytes) -> None:
        """Send a frame behind all that were put before it, and wait until there is room for the next.

        Nothing where the device has gone: whoever sent to it will be told by the group.
        """
        try:
            while self._own:
                await self._sent.wait()
            # Written to the transport before the first wait inside: no task comes between.
            await self._connection.send(data)
        except ConnectionClosed:
            pass

    async def drain(self) -> None:
        """Send what was put, until the connection ends."""
        try:
            while True:
                await self._more.wait()
                while self._own:
                    await self._connection.send(self._own[0])
                    self._own.popleft()
                self._more.clear()
                self._sent.set()
        except ConnectionClosed:
            pass
        finally:
            self._gone = True
            self._own.clear()
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
