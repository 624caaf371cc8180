"""A connection of which nothing is known yet, however it came to this host."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Protocol

from crowdlearn_device.transport.large_message import LargeMessage
from crowdlearn_device.transport.message_stream import Handler, MessageStream
from crowdlearn_device.transport.takeover import READ_UNDER_TLS, taken_over
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed

from crowdlearn_host.errors import SilentDevice

Admit = Callable[[LargeMessage], Awaitable[None] | None]
"""Lets a large message in, at once or when what is returned is over."""


class FrameStream(Protocol):
    """Messages to a device, as the hub needs them. MessageStream is one."""

    @property
    def has_room(self) -> bool: ...

    @property
    def queued(self) -> int: ...

    def put(self, data: bytes, *, express: bool = False) -> None: ...

    async def room(self) -> None: ...

    async def ended(self) -> str: ...

    def abort(self) -> None: ...

    async def close(self, code: int = 1000, reason: str = "") -> None: ...


class Arrival(ABC):
    """A connection that has just been made. `may_move`: its device can be sent to a relay process."""

    may_move = False

    @abstractmethod
    async def recv(self) -> bytes | str:
        """Return the next frame. Raises SilentDevice if the connection ends."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Send a frame before the connection is taken over. Raises SilentDevice if it has ended."""

    @abstractmethod
    def take_over(self, number: int, group: int, handler: Handler, admit: Admit) -> FrameStream:
        """Return the stream to the device, which has this number and group; its frames go to `handler`, and
        `admit` is asked before a large one is taken in.
        """

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Close the connection with a code of WebSocket."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection without a word."""


class Dialled(Arrival):
    """A WebSocket of this process. `carrier` gives another transport to the device, if there is one that
    costs less than the connection's. Under TLS `reads` bytes are read at a time.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        may_move: bool = False,
        carrier: Callable[[], asyncio.Transport | None] = lambda: None,
        reads: int = READ_UNDER_TLS,
    ) -> None:
        self._connection, self._carrier, self._reads = connection, carrier, reads
        self.may_move = may_move

    async def recv(self) -> bytes | str:
        try:
            return await self._connection.recv()
        except ConnectionClosed as error:
            raise SilentDevice(f"a device sent no more: {error}") from error

    async def send(self, data: bytes) -> None:
        try:
            await self._connection.send(data)
        except ConnectionClosed as error:
            raise SilentDevice(f"a device hung up: {error}") from error

    def take_over(self, number: int, group: int, handler: Handler, admit: Admit) -> MessageStream:
        stream = taken_over(self._connection, handler, self._carrier(), self._reads)
        stream.admit = admit
        return stream

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def abort(self) -> None:
        self._connection.transport.abort()


class Relays(Protocol):
    """The processes that relay for this one (devices/relays)."""

    def address(self, group: int) -> str:
        """Return where the devices of a group find their relay: HOST:PORT; "" if there is none."""

    def stands(self, group: int, generation: int) -> None:
        """Send a group's relay its generation: envelopes of others are dropped."""
