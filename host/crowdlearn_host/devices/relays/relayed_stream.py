"""A device whose connection a relay process holds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.transport.message_stream import CLOSE_SECONDS, ROOM_BYTES, Handler
from crowdlearn_device.transport.websocket import NORMAL, PROTOCOL_ERROR

from crowdlearn_host.coordinator.hub.arrival import Admit, Arrival
from crowdlearn_host.errors import SilentDevice

from .channel import EXPRESS, Channel, Kind


class RelayedArrival(Arrival):
    """A connection at a relay process that has no seat yet."""

    def __init__(self, channel: Channel, identifier: int, fields: dict[str, Any]) -> None:
        self.path = str(fields["path"])
        self.stream: RelayedStream | None = None
        self._channel, self._identifier = channel, identifier
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue()

    def came(self, data: bytes) -> None:
        """Take a frame of the device."""
        if self.stream is not None:
            self.stream.came(data)
        else:
            self._frames.put_nowait(data)
            self._channel.say_number(Kind.TAKEN, 0, self._identifier)

    def went(self, size: int) -> None:
        """Note that so many bytes are no longer queued at the relay."""
        if self.stream is not None:
            self.stream.went(size)

    def gone(self, reason: str) -> None:
        """Note that the connection has ended."""
        if self.stream is not None:
            self.stream.gone(reason)
        self._frames.put_nowait(None)

    async def recv(self) -> bytes | str:
        frame = await self._frames.get()
        if frame is None:
            raise SilentDevice("a device sent no more: its connection ended")
        return frame

    async def send(self, data: bytes) -> None:
        self._channel.say(Kind.PUT, self._identifier, data)

    def take_over(self, number: int, group: int, handler: Handler, admit: Admit) -> RelayedStream:
        """Return the stream to the device. The relay process admits large messages, not `admit`."""
        self._channel.say_json(Kind.SEATED, {"number": number, "group": group}, self._identifier)
        self.stream = RelayedStream(self._channel, self._identifier, handler)
        asyncio.get_running_loop().call_soon(self._hand_on, self.stream)
        return self.stream

    def _hand_on(self, stream: RelayedStream) -> None:
        """Give a stream what came before it was there."""
        while not self._frames.empty():
            if (frame := self._frames.get_nowait()) is None:
                stream.gone("the connection ended")
            else:
                stream.came(frame)

    async def close(self, code: int, reason: str) -> None:
        self._channel.say_json(Kind.CLOSE, [code, reason], self._identifier)

    def abort(self) -> None:
        self._channel.say(Kind.ABORT, self._identifier)


class RelayedStream:
    """Messages to and from a device through its relay process; queues are as bounded as MessageStream's."""

    def __init__(self, channel: Channel, identifier: int, handler: Handler) -> None:
        self._channel, self._identifier, self._handler = channel, identifier, handler
        self.queued = 0
        self._inbox: deque[bytes] = deque()
        self._taking: asyncio.Future[None] | None = None
        self._ended = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._reason = ""

    def put(self, data: bytes, *, express: bool = False) -> None:
        """Send a frame as soon as there is room; nothing if the connection has ended."""
        if self._ended.is_set():
            return
        self.queued += len(data)
        if self.queued > ROOM_BYTES:
            self._roomy.clear()
        self._channel.say(Kind.PUT, self._identifier, data, EXPRESS if express else 0)

    @property
    def has_room(self) -> bool:
        """Return True if not too much waits to be sent, or the other side has gone."""
        return self._roomy.is_set()

    async def room(self) -> None:
        """Wait until there is room."""
        await self._roomy.wait()

    def went(self, size: int) -> None:
        """Note that so many bytes are no longer queued at the relay."""
        self.queued -= size
        if self.queued <= ROOM_BYTES:
            self._roomy.set()

    def came(self, data: bytes) -> None:
        """Take a frame of the device, in its turn."""
        if self._taking is not None:
            self._inbox.append(data)
            return
        try:
            waiting = self._handler(data)
        except WireError as error:
            self._refuse(error)
            return
        if waiting is None:
            self._channel.say_number(Kind.TAKEN, len(data), self._identifier)
        else:
            self._taking = asyncio.ensure_future(self._wait(waiting, len(data)))
            self._taking.add_done_callback(self._taken)

    async def _wait(self, waiting: Awaitable[None], size: int) -> None:
        await waiting
        self._channel.say_number(Kind.TAKEN, size, self._identifier)

    def _taken(self, done: asyncio.Future[None]) -> None:
        self._taking = None
        if not done.cancelled() and isinstance(error := done.exception(), Exception):
            self._refuse(error)
            if not isinstance(error, WireError):
                raise error  # a mistake of ours, which the loop tells
        while self._inbox and self._taking is None:
            self.came(self._inbox.popleft())

    def _refuse(self, error: Exception) -> None:
        self._reason = str(error)
        self._handler = _ignore
        self._channel.say_json(Kind.CLOSE, [PROTOCOL_ERROR, str(error)[:120]], self._identifier)

    def gone(self, reason: str) -> None:
        """Note that the connection has ended."""
        self._reason = self._reason or reason
        self._ended.set()
        self._roomy.set()
        self.queued = 0

    async def ended(self) -> str:
        """Wait until the connection has ended, and everything that came is taken; return the reason."""
        await self._ended.wait()
        while self._taking is not None:
            await asyncio.wait([self._taking])
            await asyncio.sleep(0)
        return self._reason

    def abort(self) -> None:
        """End the connection without a word."""
        self._channel.say(Kind.ABORT, self._identifier)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Let what was put go out, then close."""
        self._channel.say_json(Kind.CLOSE, [code, reason], self._identifier)
        try:
            async with asyncio.timeout(2 * CLOSE_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            self.abort()


def _ignore(data: bytes) -> None:
    """Take what still comes over a connection that is being closed."""
