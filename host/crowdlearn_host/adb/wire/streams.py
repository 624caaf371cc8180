"""Streams of one adb connection, without I/O: who may send, who waits, what is open.

Both ends of a connection speak the same rules after it is established, so the host and the virtual phone
share this file. An end acknowledges when its reader has taken the bytes, which is all the flow control adb
has. A stream is one unacknowledged WRTE in each direction. Where both ends have the feature `delayed_ack`, it
is a window of bytes instead: OPEN and the first OKAY grant it, and later ones give back what was taken.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from crowdlearn_host.adb.wire.messages import Command, Message, ProtocolError

MAX_STREAMS = 1024
DELAYED_ACK = "delayed_ack"
"""The feature of both ends by which streams count bytes."""
WINDOW_BYTES = 1 << 20
"""The bytes of a stream that may be unacknowledged, whatever more a peer grants."""
ACKNOWLEDGED_BYTES = 32 << 10
"""The bytes that are acknowledged together: a sender that waits for fewer waits for good."""
ACKNOWLEDGED_WITH_DATA = ACKNOWLEDGED_BYTES // 2
"""The bytes whose acknowledgement goes along with what this end sends: it costs no write and no wake-up."""
_COUNT = struct.Struct("<i")
_new = tuple.__new__
WRTE, OKAY, CLSE = Command.WRTE, Command.OKAY, Command.CLSE


class Incoming(NamedTuple):
    """The peer opens a stream to `service`: answer with accept or refuse."""

    local_id: int
    service: bytes


class Opened(NamedTuple):
    """The peer accepted a stream that this end opened, which may write now."""

    local_id: int


class Data(NamedTuple):
    """Bytes arrived; call acknowledge with their number once they are consumed."""

    local_id: int
    payload: bytes


class Writable(NamedTuple):
    """A write was acknowledged: the next may go out."""

    local_id: int


class Closed(NamedTuple):
    """The peer closed the stream, or refused to open it (then it was never opened)."""

    local_id: int
    was_open: bool


Event = Incoming | Opened | Data | Writable | Closed
Taken = tuple[Event | None, Message | None]
"""The event that a message of the peer makes for a stream, and the answer to it; None where there is none."""


@dataclass(slots=True)
class Flow:
    """The flow of one stream, in bytes, or in messages where the peer does not count bytes."""

    local_id: int
    remote_id: int
    counts_bytes: bool
    window: int
    """The most that the peer may have unacknowledged."""
    room: int = 0
    """The rest that may be sent; 0 before the stream is open, and once it is closed."""
    granted: int = 0
    """The most that may be sent while nothing is acknowledged."""
    unread: int = 0
    """The part of what came that its reader has not taken."""
    owed: int = 0
    """The part that its reader has taken, and that is still to be acknowledged."""
    due: int = 0
    """The most that may be owed."""

    def __post_init__(self) -> None:
        self.due = min(ACKNOWLEDGED_BYTES, self.window // 2)

    def write(self, payload: bytes) -> Message:
        """Return the message that sends a payload. Raises ValueError if there is no room."""
        if self.room <= 0:
            raise ValueError(f"stream {self.local_id} cannot take a write now")
        self.room -= len(payload) if self.counts_bytes else 1
        return _new(Message, (WRTE, self.local_id, self.remote_id, payload))


class Streams:
    """The table of streams. Calls return what to send, if anything; `receive` also what happened.

    `counts_bytes` says whether both ends have DELAYED_ACK; it is set before the first stream.
    """

    def __init__(self, *, max_streams: int = MAX_STREAMS, counts_bytes: bool = False) -> None:
        self.counts_bytes = counts_bytes
        self._max_streams = max_streams
        self._states: dict[int, Flow] = {}
        self._last_id = 0
        self._handlers: dict[Command, Callable[[Message], Taken]] = {
            Command.WRTE: self._receive_write,
            Command.OKAY: self._receive_okay,
            Command.OPEN: self._receive_open,
            Command.CLSE: self._receive_close,
        }

    def __len__(self) -> int:
        return len(self._states)

    def open(self, service: bytes, window: int = WINDOW_BYTES) -> tuple[int, Message]:
        """Return a new stream to `service`: its local number and the message that requests it.

        Of a peer that counts bytes at most `window` come unacknowledged, and one message more.
        """
        local_id = self._add(0, window)
        return local_id, Message(Command.OPEN, local_id, window if self.counts_bytes else 0, service + b"\0")

    def accept(self, local_id: int) -> Message:
        """Say yes to an incoming stream."""
        state = self._states[local_id]
        return Message(OKAY, local_id, state.remote_id, self._count(state.window))

    def refuse(self, local_id: int) -> Message:
        """Say no to an incoming stream."""
        return Message(Command.CLSE, 0, self._states.pop(local_id).remote_id)

    def flow(self, local_id: int) -> Flow:
        """Return the flow of a stream, which is open on one side at least."""
        return self._states[local_id]

    def write(self, local_id: int, payload: bytes) -> Message:
        """Send one payload; only where there is room."""
        return self.flow(local_id).write(payload)

    def acknowledge(self, local_id: int, size: int) -> Message | None:
        """Return the message that acknowledges Data of `size` bytes, which its reader has taken; None if the
        stream is closed by now, or more is to be acknowledged together.
        """
        state = self._states.get(local_id)
        if state is None or not self.counts_bytes:
            if state is None or not state.unread:
                return None
            state.unread = 0
            return Message(OKAY, local_id, state.remote_id)
        size = min(size, state.unread)
        state.unread -= size
        state.owed += size
        return None if state.owed < state.due else self.acknowledge_owed(local_id)

    def acknowledge_owed(self, local_id: int) -> Message:
        """Return the message that acknowledges all that is owed on a stream, which is open."""
        state = self._states[local_id]
        taken, state.owed = state.owed, 0
        return Message(OKAY, local_id, state.remote_id, self._count(taken))

    def close(self, local_id: int) -> Message | None:
        """Close this end; the number is free at once, a late message of the peer is ignored."""
        state = self._states.pop(local_id, None)
        if state is None:
            return None
        state.room = 0
        return Message(CLSE, local_id, state.remote_id) if state.remote_id else None

    def receive(self, message: Message) -> Taken:
        """Return what a message of the peer makes happen, and what to answer at once."""
        handler = self._handlers.get(message.command)
        if handler is None:
            raise ProtocolError(f"adb message {message.command.name} on an established connection")
        return handler(message)

    def _receive_open(self, message: Message) -> Taken:
        if message.arg0 == 0:
            raise ProtocolError("adb stream opened with number 0")
        # As on Android a peer that counts bytes on one side only is refused.
        if len(self._states) >= self._max_streams or bool(message.arg1) != self.counts_bytes:
            return None, Message(CLSE, 0, message.arg0)
        local_id = self._add(message.arg0, WINDOW_BYTES)
        self._grant(self._states[local_id], message.arg1)
        return Incoming(local_id, message.payload.rstrip(b"\0")), None

    def _receive_okay(self, message: Message) -> Taken:
        _, remote_id, local_id, payload = message
        state = self._states.get(local_id)
        if state is None:
            # Opened by a peer whose caller has given up meanwhile: tell it, or it stays open there for good.
            return None, _closed(message)
        if self.counts_bytes and len(payload) != _COUNT.size:
            raise ProtocolError(f"adb stream {local_id}: an OKAY of {len(payload)} bytes; 4 were due")
        count = _COUNT.unpack(payload)[0] if self.counts_bytes else 1
        if state.remote_id == 0:
            if remote_id == 0:
                raise ProtocolError("adb stream accepted with number 0")
            state.remote_id = remote_id
            self._grant(state, count)
            return Opened(local_id), None
        if state.remote_id != remote_id:
            return None, None
        state.room = min(state.room + count, state.granted)
        return Writable(local_id), None

    def arrived(self, message: Message) -> bool:
        """Take in what a WRTE holds, as far as the flow goes. Return whether its stream is open.

        Raises ProtocolError if the peer sends more than it may.
        """
        _, remote_id, local_id, payload = message
        state = self._states.get(local_id)
        if state is None or state.remote_id != remote_id:
            return False
        if self.counts_bytes:
            if state.unread + state.owed >= state.window:
                raise ProtocolError(
                    f"adb stream {local_id}: more than {state.window} bytes, none acknowledged"
                )
            state.unread += len(payload)
        else:
            if state.unread:
                raise ProtocolError(f"adb stream {local_id}: a second WRTE before the first was acknowledged")
            state.unread = 1
        return True

    def _receive_write(self, message: Message) -> Taken:
        if not self.arrived(message):
            return None, _closed(message)
        return Data(message.arg1, message.payload), None

    def _receive_close(self, message: Message) -> Taken:
        state = self._states.get(message.arg1)
        # A refused OPEN comes back as CLSE(0, ours); a CLSE of an open stream names both ends.
        if state is None or message.arg0 not in (0, state.remote_id):
            return None, None
        del self._states[message.arg1]
        state.room = 0
        return Closed(message.arg1, was_open=state.remote_id != 0), _closed(message)

    def _grant(self, state: Flow, count: int) -> None:
        """Let a stream send as the peer lets it, who does not always count bytes."""
        state.granted = state.room = min(count, WINDOW_BYTES) if self.counts_bytes else 1

    def _count(self, size: int) -> bytes:
        """Return the payload of an OKAY that grants, or gives back, so many bytes."""
        return _COUNT.pack(size) if self.counts_bytes else b""

    def _add(self, remote_id: int, window: int) -> int:
        local_id = self._last_id % 0xFFFFFFFF + 1
        while local_id in self._states:
            local_id = local_id % 0xFFFFFFFF + 1
        self._last_id = local_id
        self._states[local_id] = Flow(local_id, remote_id, self.counts_bytes, window)
        return local_id


def _closed(message: Message) -> Message | None:
    """Return the answer to a message of a stream that is closed here; None if it names no stream there."""
    return Message(CLSE, message.arg1, message.arg0) if message.arg0 else None
