"""A relay process: python -m crowdlearn_host.devices.relays.process FD HOST HOME

It accepts devices, passes envelopes on between those of one group, and everything else to the host, whose
socket pair is FD. It knows no run, opens no file but the certificate in HOME ("" for none: no TLS), and ends
with the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import resource
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import Awaitable
from pathlib import Path

from crowdlearn_device.protocol.frames import MAX_FRAME, address_of
from crowdlearn_device.transport.large_message import LargeMessage
from crowdlearn_device.transport.message_stream import ROOM_BYTES, MessageStream
from crowdlearn_device.transport.takeover import taken_over
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from crowdlearn_host.common import event_loop
from crowdlearn_host.coordinator.hub.large_messages import LargeMessages
from crowdlearn_host.coordinator.hub.ledger import Ledger
from crowdlearn_host.devices.joining.accepting import accepting
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.lobby import Strangers

from .channel import EXPRESS, REPORT_SECONDS, Channel, Kind, Message

MASK_BYTES = 4
"""A device that dials masks what it sends."""


class Held:
    """A connection. It has a `number` and a `group` once the host has seated its device."""

    def __init__(self, identifier: int, connection: ServerConnection) -> None:
        self.identifier, self.connection = identifier, connection
        self.number = self.group = -1
        self.stream: MessageStream | None = None
        self.introducing: asyncio.Task[None] | None = None
        self.decided = asyncio.Event()
        self.up, self.down = Ledger([0] * 8), Ledger([0] * 8)
        self.up.masked = MASK_BYTES
        self.untaken = 0
        self.room = asyncio.Event()

    async def has_room(self) -> None:
        """Wait until the host has taken what was passed on to it."""
        await self.room.wait()


class Relay:
    """The connections of one relay process."""

    def __init__(self, channel: Channel, strangers: Strangers) -> None:
        self._channel, self._strangers = channel, strangers
        self._held: dict[int, Held] = {}
        self._seated: dict[int, Held] = {}
        self._generation: dict[int, int] = {}
        self._large = LargeMessages(most=4 * MAX_FRAME)
        self._identifiers = itertools.count(1)

    async def handle(self, connection: ServerConnection) -> None:
        """Serve a device from its first frame to the end of its connection."""
        held = Held(next(self._identifiers), connection)
        self._held[held.identifier] = held
        path = connection.request.path if connection.request else "/"
        fields = {"address": list(connection.remote_address or ()), "path": path}
        self._channel.say_json(Kind.ARRIVED, fields, held.identifier)
        held.introducing = asyncio.create_task(self._introduce(held))
        reason = "connection closed"
        try:
            await held.decided.wait()
            if held.stream is not None:
                reason = await held.stream.ended()
        finally:
            held.introducing.cancel()
            del self._held[held.identifier]
            if self._seated.get(held.number) is held:
                del self._seated[held.number]
            self._count(held)
            self._channel.say(Kind.GONE, held.identifier, reason.encode())

    async def _introduce(self, held: Held) -> None:
        """Pass on what a device sends before it has a seat."""
        try:
            async for data in held.connection:
                self._channel.say(Kind.FRAME, held.identifier, data if isinstance(data, bytes) else b"")
        except ConnectionClosed:
            pass
        held.decided.set()

    def _take(self, held: Held, data: bytes) -> Awaitable[None] | None:
        """Pass an envelope on to a device of the same group that is here; anything else to the host."""
        address = address_of(data)
        if address is not None and address.sender == held.number:
            to = self._seated.get(address.receiver)
            if to is not None and to.group == held.group and to.stream is not None:
                held.up.count(address.purpose, len(data))
                if address.generation != self._generation.get(held.group):
                    return None
                to.down.count(address.purpose, len(data))
                to.stream.put(data, express=address.express)
                return None if to.stream.has_room else to.stream.room()
        self._channel.say(Kind.FRAME, held.identifier, data)
        held.untaken += len(data)
        if held.untaken <= ROOM_BYTES:
            return None
        held.room.clear()
        return held.has_room()

    async def obey(self) -> None:
        """Serve the host's messages, until it has ended."""
        while (message := await self._channel.next()) is not None:
            if message.kind == Kind.GROUP:
                content = message.json()
                self._generation[content["group"]] = content["generation"]
            elif (held := self._held.get(message.connection)) is not None:
                await self._obey(held, message)

    async def _obey(self, held: Held, message: Message) -> None:
        match message.kind:
            case Kind.SEATED:
                await self._seat(held, **message.json())
            case Kind.PUT if held.stream is not None:
                held.stream.put(message.content, express=bool(message.detail & EXPRESS))
                self._went(held, held.stream, len(message.content))
            case Kind.PUT if not held.decided.is_set():
                self._later(_sent(held.connection, message.content))
            case Kind.TAKEN:
                held.untaken -= message.number()
                if held.untaken <= ROOM_BYTES:
                    held.room.set()
            case Kind.ABORT if held.stream is not None:
                held.stream.abort()
            case Kind.CLOSE if held.stream is not None:
                self._later(held.stream.close(*message.json()))
            case Kind.CLOSE | Kind.ABORT:
                code, reason = message.json() if message.kind == Kind.CLOSE else (1000, "")
                self._later(held.connection.close(code, reason))

    def _went(self, held: Held, stream: MessageStream, size: int) -> None:
        """Report to the host that what it has put is no longer queued."""
        if stream.has_room:
            self._channel.say_number(Kind.WENT, size, held.identifier)
            return

        async def waits() -> None:
            await stream.room()
            self._channel.say_number(Kind.WENT, size, held.identifier)

        self._later(waits())

    async def _seat(self, held: Held, number: int, group: int) -> None:
        if held.introducing is None or held.introducing.done():
            return  # it has gone again
        held.introducing.cancel()
        await asyncio.wait([held.introducing])
        self._strangers.admit(held.connection.remote_address)
        held.number, held.group = number, group
        self._seated[number] = held
        held.stream = taken_over(held.connection, lambda data: self._take(held, data))
        held.stream.admit = self._admit
        held.decided.set()

    def _admit(self, large: LargeMessage) -> Awaitable[None] | None:
        """Hold a sender back until a large message has somewhere to go. Raises WireError if it is refused."""
        address = address_of(large.head)
        to = None if address is None else self._seated.get(address.receiver)
        return self._large.admit(large, None if to is None else to.stream)

    def _later(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        _RUNNING.add(task)
        task.add_done_callback(_RUNNING.discard)

    def _count(self, held: Held) -> None:
        """Report to the host what went between devices."""
        rows = [
            (held.number, way, purpose, size, messages)
            for way, ledger in (("up", held.up), ("down", held.down))
            for purpose, (size, messages) in enumerate(zip(ledger.bytes, ledger.messages, strict=True))
            if messages
        ]
        if rows:
            for ledger in (held.up, held.down):
                ledger.bytes, ledger.messages = [0] * len(ledger.bytes), [0] * len(ledger.messages)
            self._channel.say_json(Kind.COUNTED, rows)

    async def counting(self) -> None:
        """Count for the host, again and again."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            for held in list(self._seated.values()):
                self._count(held)


async def _sent(connection: ServerConnection, data: bytes) -> None:
    """Send a frame before there is a seat. A connection that is being closed keeps the caller waiting."""
    with contextlib.suppress(ConnectionClosed):
        await connection.send(data)


_RUNNING: set[asyncio.Future[object]] = set()


async def _serve(descriptor: int, host: str, home: str) -> None:
    channel = await Channel.over(socket.socket(fileno=descriptor))
    await relaying_over(channel, host, certificate(Path(home))[0] if home else None)


async def relaying_over(channel: Channel, host: str, context: ssl.SSLContext | None) -> None:
    """Relay at `host`, with TLS by `context` (None: without), until the host ends the channel; then end this
    process at once.
    """
    strangers = Strangers()
    relay = Relay(channel, strangers)
    async with accepting(relay.handle, f"{host}:0", context, strangers) as port:
        channel.say_json(Kind.LISTENING, port)
        counting = asyncio.create_task(relay.counting())
        try:
            await relay.obey()
        except Exception:
            traceback.print_exc()
        counting.cancel()
        os._exit(0)  # connections that were taken over would be waited for, and nobody is left to serve


def main() -> None:
    """Relay until the host has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the host decides when it is over
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    event_loop.run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]), dialled=True)


if __name__ == "__main__":
    main()
