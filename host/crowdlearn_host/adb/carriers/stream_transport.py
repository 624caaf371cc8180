"""An adb stream as asyncio's transport: what is written and read goes through no socket of this computer."""

import asyncio
from typing import Any, cast

from crowdlearn_host.adb.carriers.mux import Stream
from crowdlearn_host.adb.wire.streams import Closed, Opened, Writable
from crowdlearn_host.errors import FleetError

WRITE_BYTES = 64 << 10
"""The most bytes that may be written at a time, and that are on their way before the writer waits."""


class StreamTransport(asyncio.Transport):
    """A transport that takes an open stream over from its reader and writer. A protocol may write while
    little is unacknowledged; it is paused otherwise, so that what is behind can still change its order.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__({"write_bytes": WRITE_BYTES})
        self._stream = stream
        self._flow = stream.flow
        self._least_room = max(self._flow.granted - WRITE_BYTES, 0)
        """The room of the flow at which nothing is written any more."""
        self._most = stream.max_payload
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.Protocol = asyncio.Protocol()
        self._buffer = bytearray()
        self._reading = True
        self._writing = True
        self._closing = False
        self._lost = False
        self._end: tuple[Exception | None] | None = None
        """The end of the stream, while the protocol has not read what came before."""
        self._held = bytearray(stream.listen(self._happened, self._came))
        """The bytes that came while the protocol did not read."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast(asyncio.Protocol, protocol)
        if self._held:
            self._loop.call_soon(self._deliver_held)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: the protocol is paused as soon as anything waits."""

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or not data:
            return
        flow, least = self._flow, self._least_room
        if flow.room > least and not self._buffer and len(data) <= self._most:
            self._stream.send(bytes(data))  # as it is, without a way through the buffer
        else:
            self._buffer += data
            self._send()
        if flow.room <= least and self._writing:
            self._writing = False
            self._protocol.pause_writing()

    def _send(self) -> None:
        while self._buffer and self._flow.room > self._least_room:
            payload = bytes(self._buffer[: self._most])
            del self._buffer[: len(payload)]
            self._stream.send(payload)

    def _came(self, payload: bytes) -> bool:
        if self._reading and not self._held:  # bytes that came before go first
            self._protocol.data_received(payload)
            return True
        self._held += payload
        return False

    def _happened(self, event: Opened | Writable | Closed | None) -> None:
        kind = type(event)
        if kind is Writable:
            self._send()
            if self._buffer:
                return
            if self._closing:
                self.abort()
            elif not self._writing and self._flow.room > self._least_room:
                self._writing = True
                self._protocol.resume_writing()
        elif kind is Closed:
            self._over(None)
        elif event is None:
            self._over(FleetError("the adb connection was lost"))

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._reading:
            self._reading = True
            self._deliver_held()

    def _deliver_held(self) -> None:
        if self._reading and self._held:
            held = bytes(self._held)
            self._held.clear()
            self._protocol.data_received(held)
            self._stream.acknowledge(len(held))
            if self._end is not None:
                self._lose(*self._end)

    def close(self) -> None:
        self._closing = True
        if not self._buffer and self._stream.can_write:
            self.abort()

    def abort(self) -> None:
        self._closing = True
        self._stream.abort()
        self._lose(None)

    def _over(self, error: Exception | None) -> None:
        """Tell the protocol of the end once it has read what came before."""
        self._closing = True
        if self._held:
            self._end = (error,)
        else:
            self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        self._closing = True
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return super().get_extra_info(name, default)
