"""WebSocket messages over a connection that stands (RFC 6455), without a task or a wait for each.

A library makes the connection and its handshake; `takeover.py` goes on with it. Messages come to a function,
as many at once as have arrived, and what is put goes out together, in two lanes: what goes express overtakes
the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.frames import Frame

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import MAX_FRAME

from .large_message import HEAD_BYTES, PART_BYTES, LargeMessage, let_go
from .turn import Turn
from .websocket import (
    ABNORMAL,
    BINARY,
    CLOSE,
    CONTINUATION,
    FINAL,
    MASKED,
    MEDIUM,
    NO_KEY,
    NORMAL,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    WHOLE,
    Fragments,
    Heads,
    length_of,
)

try:
    from websockets.speedups import apply_mask
except ImportError:  # a wheel without compiled parts
    from websockets.utils import apply_mask

CLOSE_SECONDS = 5.0
ROOM_BYTES = 1 << 20
"""A relay holds a sender back while more than this waits for its receiver."""
TOGETHER_BYTES, TOGETHER_UNDER_TLS = 14 << 10, 7 << 10
"""Short messages that are handed to the system together: others may overtake what is behind them."""
UNSENT_BYTES = 16 << 10
"""The most bytes that are handed to the system: what lies there cannot be overtaken any more."""
PING_SECONDS, PONG_SECONDS = 20.0, 60.0
"""A connection on which nothing came for so long is asked, and given up when nothing comes then."""

MOST_CONTROL, MOST_PING_BYTES = 16, 125
"""The most that a peer may make this side keep: control frames to be sent, bytes of a ping."""
LARGE_BYTES = 1 << 20
"""Longer messages are put where they stay, as they come, once a relay has room for them."""
STALLED_SECONDS = 120.0
"""A peer that takes nothing of what waits for it for so long is given up."""

Handler = Callable[[bytes], Awaitable[None] | None]
"""A function that takes a message; while its result is awaited, no more is read."""


class MessageStream(asyncio.Protocol):
    """Messages both ways over `transport`; a client masks its frames.

    `put` always finds room. A relay waits for `room` behind it and reads no further meanwhile. So TCP holds
    back a device that sends more than its receiver takes.
    """

    def __init__(self, transport: asyncio.Transport, handler: Handler, *, client: bool) -> None:
        self.close_code, self.close_reason = ABNORMAL, ""
        self._transport, self._handler = transport, handler
        self._head = Heads(client=client).of
        secure = transport.get_extra_info("ssl_object") is not None
        usual = TOGETHER_UNDER_TLS if secure else TOGETHER_BYTES
        self._together = transport.get_extra_info("write_bytes", usual)
        self._loop = asyncio.get_running_loop()
        self._turn = Turn.of(self._loop)
        self._heard = self._loop.time()
        self._coming = bytearray()
        self._due = 0
        """Bytes that the frame under way has in all."""
        self._fragments = Fragments()
        self._inbox: deque[bytes] = deque()
        self._taking: asyncio.Future[None] | None = None
        self._control: deque[bytes] = deque()
        self._express: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._rest = memoryview(b"")
        """The part of a long message that has not gone out."""
        self._bytes = 0
        self._paused = self._flushing = self._ending = self._closing = self._over = False
        self._roomy, self._sent, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._roomy.set()
        self.on_lost: Callable[[Exception | None], None] = lambda error: None
        self.on_idle: Callable[[], None] = lambda: None
        """Called when the system, which took nothing for a while, has taken all that waited."""
        self.admit: Admit = lambda large: None
        self._large: LargeMessage | None = None
        self._admitting: asyncio.Future[None] | None = None
        self._took, self._took_at = 0, self._heard
        """The bytes that the system has taken in all, as they were found when they last were others."""
        self._taken_bytes = 0
        _queue_little(transport)
        self._asking = self._loop.call_later(PING_SECONDS, self._ask)

    @property
    def gone(self) -> bool:
        """Return True if the connection has ended."""
        return self._over

    async def ended(self) -> str:
        """Wait until the connection has ended, and everything that came is taken; why it did."""
        await self._gone.wait()
        while self._taking is not None:
            await asyncio.wait([self._taking])
            await asyncio.sleep(0)
        return self.close_reason or (
            "connection closed" if self.close_code == NORMAL else "the connection broke"
        )

    def put(self, data: bytes, *, express: bool = False) -> None:
        """Send a message as soon as there is room; nothing if a side has begun to close the connection."""
        self.add(data, express=express)
        if not (self._flushing or self._paused):
            self._flushing = True
            self._turn.flush_soon(self)

    def add(self, data: bytes, *, express: bool = False) -> None:
        """Put a message that goes out with the next `flush`, or with what is put next."""
        if self._ending or self._over:
            return
        (self._express if express else self._others).append(data)
        self._bytes += len(data)
        if self._bytes > ROOM_BYTES:
            self._roomy.clear()

    @property
    def queued(self) -> int:
        """Return bytes that wait to be sent."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Return True if not too much waits to be sent, or the other side has gone."""
        return self._bytes <= ROOM_BYTES

    @property
    def is_busy(self) -> bool:
        """Return True if the system takes nothing now."""
        return self._paused

    async def room(self) -> None:
        """Wait until there is room."""
        await self._roomy.wait()

    def abort(self) -> None:
        """End the connection without a closing frame: nothing reads at its other end."""
        self._transport.abort()

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Let what was put before go out, then close."""
        self._ending = True
        self.flush()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._sent.wait()
        except TimeoutError:
            pass
        self._say_close(code, reason)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()
            await self._gone.wait()

    def _say_close(self, code: int, reason: str) -> None:
        if not (self._closing or self._over):
            self._closing = True
            text = reason.encode()[:120].decode(errors="ignore").encode()
            self._control.append(self._frame(CLOSE, struct.pack(">H", code) + text))
            self.flush()

    def _ask(self) -> None:
        """See whether the other side is there."""
        now = self._loop.time()
        silent = now - self._heard
        if silent > PING_SECONDS + PONG_SECONDS:
            self.close_reason = f"no answer for {silent:.0f} s"
            self._transport.abort()
            return
        if not self._bytes or self._took != self._taken_bytes:
            self._took, self._took_at = self._taken_bytes, now
        elif now - self._took_at > STALLED_SECONDS:
            self.close_reason = f"nothing of what waits was taken for {STALLED_SECONDS:.0f} s"
            self._transport.abort()
            return
        if silent >= PING_SECONDS:
            self._control.append(self._frame(PING, b""))
            self._flush_soon()
        self._asking = self._loop.call_later(PING_SECONDS, self._ask)

    # What comes.

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._large is not None:
            taken = self._large.add(data)
            if not self._large.is_whole:
                return
            content, self._large = self._large.content(), None
            self._take(content)
            del content
            data = data[taken:]
        if self._coming:
            self._coming += data
            if len(self._coming) < self._due:
                return
            data = bytes(self._coming)
            self._coming.clear()
        try:
            taken = self._parse(data)
        except WireError as error:
            self._fail(PROTOCOL_ERROR, str(error))
            return
        if taken < len(data):
            self._coming += memoryview(data)[taken:]

    def _parse(self, data: bytes) -> int:
        """Take the whole frames; how many bytes they are. Raises WireError for what is no frame."""
        at, end = 0, len(data)
        while end - at >= 2:
            if end - at < 4:
                data += bytes(2)  # what a short frame lacks of a longer one's head, behind its end
            first, second, length = MEDIUM.unpack_from(data, at)
            start, key = at + 4, b""
            if second & 0x7F != 126:
                length, start = length_of(data, at, end)
            if second & MASKED:
                key = data[start : start + 4]
                start += 4
            stop = start + length
            if stop > end:
                self._due = stop - at
                if length > MAX_FRAME:
                    raise WireError(f"message of {length} bytes; at most {MAX_FRAME} are allowed")
                if length > LARGE_BYTES and first == WHOLE and not self._fragments.parts:
                    self._due = start + HEAD_BYTES - at
                    if end - start >= HEAD_BYTES:
                        self._begin(data[start:end], length, key)
                        self._due, at = 0, end
                return at
            content = data[start:stop]
            if key and key != NO_KEY:
                content = apply_mask(content, key)
            at = stop
            if first != WHOLE or self._fragments.parts:
                self.take_frame(first, content)
            elif self._taking is not None:
                self._inbox.append(content)
            elif (waiting := self._handler(content)) is not None:
                self._wait_for(waiting)
        self._due = 0
        return at

    def _begin(self, content: bytes, length: int, key: bytes) -> None:
        """Make room for a large message, of which this has come, and go on once it is admitted."""
        large = self._large = LargeMessage(length, b"" if key == NO_KEY else key, self._halted)
        large.add(content)
        waiting = self.admit(large)
        if waiting is None:
            large.make_room()
        else:
            self._transport.pause_reading()
            self._admitting = asyncio.ensure_future(waiting)
            self._admitting.add_done_callback(self._admitted)

    def _halted(self) -> None:
        """End a connection whose peer sends no more of a large message, unless it is this side that does not
        read on.
        """
        if self._taking is not None:
            return
        self.close_reason = "a large message came to a halt, and others waited for its room"
        self._transport.abort()

    def _admitted(self, done: asyncio.Future[None]) -> None:
        self._admitting = None
        if not done.cancelled() and isinstance(error := done.exception(), Exception):
            self._fail(PROTOCOL_ERROR, str(error))
        self._read_on()

    def _read_on(self) -> None:
        if self._taking is None and self._admitting is None and not self._over:
            self._transport.resume_reading()

    def take_frames(self, frames: deque[Frame]) -> None:
        """Take what a library has read."""
        try:
            while frames:
                frame = frames.popleft()
                self.take_frame((FINAL if frame.fin else 0) | frame.opcode, bytes(frame.data))
        except WireError as error:
            self._fail(PROTOCOL_ERROR, str(error))

    def take_frame(self, first: int, content: bytes) -> None:
        """Take a frame of any kind, which its first byte tells. Raises WireError if it was not due."""
        kind = first & 0x0F
        if kind == PING:
            if len(self._control) < MOST_CONTROL:  # who asks on and on, and reads nothing, gets no more
                self._control.append(self._frame(PONG, content[:MOST_PING_BYTES]))
                self._flush_soon()
        elif kind == CLOSE:
            self.close_code = int.from_bytes(content[:2], "big") if len(content) >= 2 else NORMAL
            self.close_reason = content[2:].decode(errors="replace")
            self._say_close(self.close_code if len(content) >= 2 else NORMAL, "")
            self._transport.close()
        elif kind == TEXT:
            raise WireError("text where a binary frame was due")
        elif kind in (BINARY, CONTINUATION) and (kind == BINARY) != bool(self._fragments.parts):
            self._fragments.add(content)
            if first & FINAL:
                self._take(self._fragments.whole())
        elif kind != PONG:
            raise WireError(f"frame of kind {first:#x} where none was due")

    def _take(self, content: bytes) -> None:
        if self._taking is not None:
            self._inbox.append(content)
            return
        try:
            waiting = self._handler(content)
        except WireError as error:
            self._fail(PROTOCOL_ERROR, str(error))
            return
        if waiting is not None:
            self._wait_for(waiting)

    def _wait_for(self, waiting: Awaitable[None]) -> None:
        """Read on once a handler has done what a message needs."""
        self._transport.pause_reading()
        self._taking = asyncio.ensure_future(waiting)
        self._taking.add_done_callback(self._taken)

    def _taken(self, done: asyncio.Future[None]) -> None:
        self._taking = None
        if not done.cancelled() and isinstance(error := done.exception(), Exception):
            self._fail(PROTOCOL_ERROR, str(error))
            if not isinstance(error, WireError):
                raise error  # a mistake of ours, which the loop tells
        while self._inbox and self._taking is None:
            self._take(self._inbox.popleft())
        self._read_on()

    def _fail(self, code: int, reason: str) -> None:
        self.close_reason = reason
        self._handler = _ignore
        self._say_close(code, reason)
        self._transport.close()

    # What goes.

    def _frame(self, kind: int, content: bytes) -> bytes:
        return self._head(kind, len(content)) + content

    def _flush_soon(self) -> None:
        if not (self._flushing or self._paused):
            self._flushing = True
            self._turn.flush_soon(self)

    def flush(self) -> None:
        """Hand the system what it takes, now."""
        self._flushing = False
        express, others, control = self._express, self._others, self._control
        if len(others) == 1 and not (self._paused or self._over or self._rest or express or control):
            length = len(others[0])
            if length <= self._together and not self._ending:  # nearly always: a short message, alone
                self._bytes = 0
                self._taken_bytes += length
                self._write(self._head(BINARY, length) + others.popleft())
                return
        while not (self._paused or self._over):
            if self._rest:
                part, rest = self._rest[:PART_BYTES], self._rest[PART_BYTES:]
                self._rest = rest or memoryview(b"")  # an empty view, too, would hold the message
                self._went(len(part))
                self._write(part)
                let_go(part.obj)
                continue
            parts: list[bytes] = []
            size = 0
            if control:
                parts.extend(control)
                control.clear()
            while lane := express or others:
                length = len(lane[0])
                if parts and size + length > self._together:
                    break
                data = lane.popleft()
                parts.append(self._head(BINARY, length))
                if length > self._together:
                    self._rest = memoryview(data)
                    break
                parts.append(data)
                size += length
            if not parts:
                if self._ending:
                    self._sent.set()
                return
            self._went(size)
            self._write(b"".join(parts))

    def _write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the system; end the connection if a library has ended its stream before."""
        try:
            self._transport.write(data)
        except RuntimeError:
            self._transport.abort()

    def _went(self, size: int) -> None:
        before = self._bytes
        self._bytes = before - size
        self._taken_bytes += size
        if before > ROOM_BYTES >= self._bytes:
            self._roomy.set()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()
        if not self._paused:
            self.on_idle()

    def eof_received(self) -> None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._asking.cancel()
        self._large = None
        if self._admitting is not None:
            self._admitting.cancel()
        self._express.clear()
        self._others.clear()
        self._rest = memoryview(b"")
        self._bytes = 0
        self._over = True
        for event in (self._gone, self._roomy, self._sent):
            event.set()
        self.on_lost(exc)


Admit = Callable[[LargeMessage], Awaitable[None] | None]
"""A function that looks at the head of a large message; until its result is over, no more of the message is
read. Raises WireError if it is refused.
"""


def _ignore(data: bytes) -> None:
    """Take what still comes over a connection that is being closed."""


def _queue_little(transport: asyncio.Transport) -> None:
    """Keep what waits in the lanes, not in buffers behind them."""
    transport.set_write_buffer_limits(high=1)
    # Under TLS there is a second transport below, of which asyncio tells nobody; it would take 64 kB.
    below: Any = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
    if below is not None:
        below.set_write_buffer_limits(high=1)
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # the connection was closed meanwhile
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
