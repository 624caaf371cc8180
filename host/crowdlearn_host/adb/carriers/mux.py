"""Many full-duplex streams over one established adb connection: the asyncio side of `streams`."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

from crowdlearn_host.adb.wire.messages import MAX_PAYLOAD, Command, Decoder, Message, encode_header
from crowdlearn_host.adb.wire.stream import ByteStream
from crowdlearn_host.adb.wire.streams import (
    ACKNOWLEDGED_WITH_DATA,
    WINDOW_BYTES,
    WRTE,
    Closed,
    Data,
    Flow,
    Incoming,
    Opened,
    Streams,
    Writable,
)
from crowdlearn_host.errors import FleetError

PUMP_BYTES = 1 << 18
UNAGREED = frozenset({Command.CNXN, Command.AUTH})
"""The messages that are sent before a version is agreed."""


class StreamRefused(FleetError):
    """The other end does not offer the service that was asked for."""


class Stream:
    """One adb stream; made by `Mux.open`, or handed to the service of an accepted one."""

    def __init__(self, mux: "Mux", streams: Streams, local_id: int, service: str) -> None:
        self.service = service
        self._mux = mux
        self._streams, self._local_id = streams, local_id
        self._flow = streams.flow(local_id)
        self._chunks: deque[bytes] = deque()
        """Payloads that came and were not read."""
        self._opened = False
        self._ended = False
        self._broken = False
        self._changed = asyncio.Event()
        self.notify: Listener = self._noted
        """Takes an event of the connection, other than Data; None when the connection is lost."""
        self.take: Taker = self._keep
        """Takes what comes; True if that is done with, False if it is kept and acknowledged later."""

    def listen(self, listener: "Listener", taker: "Taker") -> bytes:
        """Send events and what comes there from now on, as nothing reads or waits here any more. Return what
        came and was not read, which is still to be acknowledged. An end that came before is sent there soon.
        """
        self.notify, self.take = listener, taker
        if self._ended:
            over = None if self._broken else Closed(self._local_id, was_open=True)
            asyncio.get_running_loop().call_soon(listener, over)
        unread = b"".join(self._chunks)
        self._chunks.clear()
        return unread

    @property
    def max_payload(self) -> int:
        """Return bytes that can be sent at a time."""
        return self._mux.max_payload

    @property
    def can_write(self) -> bool:
        """Return True if the stream is open, and the peer takes more."""
        return self._flow.room > 0

    @property
    def flow(self) -> Flow:
        """Return what may be sent, and what is unacknowledged."""
        return self._flow

    def send(self, payload: bytes) -> None:
        """Send one payload, where the stream can write."""
        flow = self._flow
        message = flow.write(payload)
        if flow.owed < ACKNOWLEDGED_WITH_DATA:
            self._mux.send(message)
        else:
            self._mux.send(message, self._streams.acknowledge_owed(self._local_id))

    def acknowledge(self, size: int) -> None:
        """Acknowledge so many bytes that came: they are taken."""
        message = self._streams.acknowledge(self._local_id, size)
        if message is not None:
            self._mux.send(message)

    async def read(self) -> bytes:
        """Return the next bytes in the pieces the peer sent; b"" when it has closed the stream.

        Raises FleetError if the connection was lost.
        """
        while not self._chunks:
            if self._ended:
                self._raise_if_broken()
                return b""
            await self._wait()
        chunk = self._chunks.popleft()
        self.acknowledge(len(chunk))
        return chunk

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`; waits while the peer takes no more. Raises FleetError if closed."""
        view = memoryview(data)
        while view:
            while not self.can_write:
                if self._ended:
                    self._raise_if_broken()
                    raise FleetError(f"adb stream {self.service!r} was closed during a write")
                await self._wait()
            payload = bytes(view[: self._mux.max_payload])
            view = view[len(payload) :]
            self.send(payload)

    async def drain(self) -> None:
        """Wait until what was written is on its way and the peer takes more, or has closed the stream."""
        while not (self._ended or self.can_write):
            await self._wait()

    async def close(self) -> None:
        """Send what was written, then close both directions; harmless when done before."""
        try:
            await self.drain()
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once, whatever is unacknowledged."""
        self._ended = True
        self._changed.set()
        self._mux.close_stream(self._local_id)

    async def opened(self) -> None:
        """Wait for the peer's answer to OPEN; raises StreamRefused."""
        while not self._opened:
            if self._ended:
                self._raise_if_broken()
                raise StreamRefused(f"the phone does not offer {self.service!r}")
            await self._wait()

    def _keep(self, payload: bytes) -> bool:
        """Keep what came for the next read, and wake what waits; an empty payload is done with."""
        if payload:
            self._chunks.append(payload)
        self._changed.set()
        return not payload

    def _noted(self, event: Opened | Writable | Closed | None) -> None:
        """Note an event, and wake what waits."""
        match event:
            case Opened():
                self._opened = True
            case Closed():
                self._ended = True
            case None:
                # What was closed before the connection was lost stays closed, not broken.
                self._broken = not self._ended
                self._ended = True
        self._changed.set()

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _raise_if_broken(self) -> None:
        if self._broken:
            self._mux.raise_if_lost()


Listener = Callable[[Opened | Writable | Closed | None], None]
Taker = Callable[[bytes], bool]
Service = Callable[[Stream], Coroutine[Any, Any, None]]


class Mux(asyncio.BufferedProtocol):
    """An adb connection after its handshake.

    `find_service` says who serves a stream that the peer opens (None refuses it).
    """

    def __init__(self, *, find_service: Callable[[str], Service | None] = lambda name: None) -> None:
        self.max_payload = MAX_PAYLOAD
        self._with_checksums = True
        self._find_service = find_service
        self._streams = Streams()
        self._ends: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._lost: str | None = None
        self._finished = asyncio.Event()

    async def open(self, service: str, window: int = WINDOW_BYTES) -> Stream:
        """Return a stream to a service of the peer, of which about `window` bytes come unacknowledged. Raises
        StreamRefused, FleetError if the connection is lost.
        """
        self.raise_if_lost()
        local_id, message = self._streams.open(service.encode(errors="surrogateescape"), window)
        stream = self._ends[local_id] = Stream(self, self._streams, local_id, service)
        self.send(message)
        try:
            await stream.opened()
        except BaseException:
            stream.abort()
            raise
        return stream

    async def close(self, reason: str = "closed by this side") -> None:
        """Drop the connection and every stream on it."""
        self._lose(reason)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._transport:
            self._transport.abort()
            await self._finished.wait()

    def expect_checksums(self, wanted: bool) -> None:
        """Expect payloads with their checksum, and send them so, if `wanted` (adb 0x01000000); else
        without.
        """
        self._with_checksums = wanted
        self._decoder.verify_checksums = wanted

    def count_bytes(self, wanted: bool) -> None:
        """Acknowledge bytes, many messages' together, if `wanted`: both ends have DELAYED_ACK. Else each
        message for itself.
        """
        self._streams.counts_bytes = wanted

    @property
    def lost(self) -> str | None:
        """Return why the connection ended; None while it lives."""
        return self._lost

    def raise_if_lost(self) -> None:
        """Raise FleetError if the connection is gone."""
        if self._lost is not None:
            raise FleetError(f"the adb connection was lost: {self._lost}; reconnect")

    def close_stream(self, local_id: int) -> None:
        """Close this end of a stream."""
        self._ends.pop(local_id, None)
        message = self._streams.close(local_id)
        if message is not None:
            self.send(message)

    def send(self, message: Message, before: Message | None = None) -> None:
        """Put a message on the wire, in one write with a short one `before` it; silently nothing after the
        connection is lost.
        """
        transport = self._transport
        if transport is None or self._lost is not None:
            return
        # What is said before a version is agreed carries its checksum in every version.
        checked = self._with_checksums or message.command in UNAGREED
        header, payload = encode_header(message, with_checksum=checked), message.payload
        if before is not None:
            header = encode_header(before, with_checksum=checked) + before.payload + header
        if len(payload) > PUMP_BYTES:
            transport.writelines([header, payload])
        else:
            transport.write(header + payload)

    def _lose(self, reason: str) -> None:
        """Mark the connection as lost and wake every task that waits on it."""
        if self._lost is not None:
            return
        self._lost = reason
        for stream in self._ends.values():
            stream.notify(None)

    def fail(self, reason: str) -> None:
        """Give the connection up at once."""
        self._lose(reason)
        if self._transport:
            self._transport.abort()

    def receive(self, message: Message) -> None:
        """Act on a message of the peer. Raises ProtocolError."""
        streams = self._streams
        if message.command is WRTE and streams.arrived(message):  # nearly all of them
            _, _, local_id, payload = message
            if self._ends[local_id].take(payload):
                answer = streams.acknowledge(local_id, len(payload))
                if answer is not None:
                    self.send(answer)
            return
        event, answer = streams.receive(message)
        if answer is not None:
            self.send(answer)
        if event is None:
            return
        if isinstance(event, Incoming):
            self._serve(event)
            return
        stream = self._ends.get(event.local_id)
        if stream is not None and not isinstance(event, Data):
            stream.notify(event)
        if isinstance(event, Closed):
            self._ends.pop(event.local_id, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for message in self._decoder.received(nbytes):
                self.receive(message)
        except FleetError as error:
            self.fail(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(str(exc) if exc else "the other end closed it")
        for task in self._tasks:
            task.cancel()
        self._finished.set()

    def _serve(self, event: Incoming) -> None:
        name = event.service.decode(errors="surrogateescape")
        service = self._find_service(name)
        if service is None:
            self.send(self._streams.refuse(event.local_id))
            return
        stream = self._ends[event.local_id] = Stream(self, self._streams, event.local_id, name)
        self.send(self._streams.accept(event.local_id))
        task = asyncio.get_running_loop().create_task(self._run(service, stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, service: Service, stream: Stream) -> None:
        try:
            with suppress(FleetError):
                await service(stream)
                await stream.close()
        finally:
            stream.abort()


class Pump:
    """A carrier of bytes between a stream and a non-blocking socket until either end closes; then it closes
    both.
    """

    def __init__(self, stream: ByteStream, sock: socket.socket) -> None:
        self.stream = stream
        self._sock = sock
        self._detached = False

    def start(self) -> asyncio.Task[None]:
        self._task = asyncio.get_running_loop().create_task(self.pump())
        # Not in `pump` itself: nothing of a task runs that is cancelled before it begins.
        self._task.add_done_callback(lambda _: self._close())
        return self._task

    def detach(self) -> None:
        """Carry nothing any more, and close the socket; the stream stays open."""
        self._detached = True
        self._task.cancel()

    async def pump(self) -> None:
        directions = [asyncio.ensure_future(self._to_stream()), asyncio.ensure_future(self._to_socket())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    def _close(self) -> None:
        if not self._detached:
            self.stream.abort()
        self._sock.close()

    async def _to_stream(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._sock, PUMP_BYTES):
            await self.stream.write(data)
        await self.stream.drain()

    async def _to_socket(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await self.stream.read():
            await loop.sock_sendall(self._sock, data)
