"""Streams of one adb connection, without I/O: who may send, who waits, what is open.

Both ends of a connection speak the same rules after it is established, so the host and the virtual phone
share this file. A stream is one unacknowledged WRTE in each direction; an end acknowledges when its reader
has taken the bytes, which is all the flow control adb has.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from crowdlearn_host.adb.wire.messages import Command, Message, ProtocolError

MAX_STREAMS = 1024
WRTE, OKAY, CLSE = Command.WRTE, Command.OKAY, Command.CLSE


class Incoming(NamedTuple):
    """The peer opens a stream to `service`: answer with accept or refuse."""

    local_id: int
    service: bytes


class Opened(NamedTuple):
    """The peer accepted a stream that this end opened, which may write now."""

    local_id: int


class Data(NamedTuple):
    """Bytes arrived; call acknowledge once they are consumed."""

    local_id: int
    payload: bytes


class Writable(NamedTuple):
    """The last write was acknowledged: the next may go out."""

    local_id: int


class Closed(NamedTuple):
    """The peer closed the stream, or refused to open it (then it was never opened)."""

    local_id: int
    was_open: bool


Event = Incoming | Opened | Data | Writable | Closed
Taken = tuple[Event | None, Message | None]
"""The event that a message of the peer makes for a stream, and the answer to it; None where there is none."""


@dataclass(slots=True)
class _State:
    remote_id: int
    sent: bool = False
    owed: bool = False


class Streams:
    """The table of streams. Calls return what to send, if anything; `receive` also what happened."""

    def __init__(self, *, max_streams: int = MAX_STREAMS) -> None:
        self._max_streams = max_streams
        self._states: dict[int, _State] = {}
        self._last_id = 0
        self._handlers: dict[Command, Callable[[Message], Taken]] = {
            Command.WRTE: self._receive_write,
            Command.OKAY: self._receive_okay,
            Command.OPEN: self._receive_open,
            Command.CLSE: self._receive_close,
        }

    def __len__(self) -> int:
        return len(self._states)

    def open(self, service: bytes) -> tuple[int, Message]:
        """Return a new stream to `service`: its local number and the message that requests it."""
        local_id = self._add(remote_id=0)
        return local_id, Message(Command.OPEN, local_id, 0, service + b"\0")

    def accept(self, local_id: int) -> Message:
        """Say yes to an incoming stream."""
        return Message(Command.OKAY, local_id, self._states[local_id].remote_id)

    def refuse(self, local_id: int) -> Message:
        """Say no to an incoming stream."""
        return Message(Command.CLSE, 0, self._states.pop(local_id).remote_id)

    def can_write(self, local_id: int) -> bool:
        """Return whether the stream is open and the peer has acknowledged everything."""
        state = self._states.get(local_id)
        return state is not None and state.remote_id != 0 and not state.sent

    def write(self, local_id: int, payload: bytes) -> Message:
        """Send one payload; only when `can_write`."""
        state = self._states.get(local_id)
        if state is None or state.remote_id == 0 or state.sent:
            raise ValueError(f"stream {local_id} cannot take a write now")
        state.sent = True
        return Message(WRTE, local_id, state.remote_id, payload)

    def acknowledge(self, local_id: int) -> Message | None:
        """Return the message that acknowledges this stream's last Data, which its reader has taken; None if
        it is closed by now.
        """
        state = self._states.get(local_id)
        if state is None or not state.owed:
            return None
        state.owed = False
        return Message(OKAY, local_id, state.remote_id)

    def close(self, local_id: int) -> Message | None:
        """Close this end; the number is free at once, a late message of the peer is ignored."""
        state = self._states.pop(local_id, None)
        if state is None:
            return None
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
        if len(self._states) >= self._max_streams:
            return None, Message(CLSE, 0, message.arg0)
        local_id = self._add(remote_id=message.arg0)
        return Incoming(local_id, message.payload.rstrip(b"\0")), None

    def _receive_okay(self, message: Message) -> Taken:
        _, remote_id, local_id, _ = message
        state = self._states.get(local_id)
        if state is None:
            # Opened by a peer whose caller has given up meanwhile: tell it, or it stays open there for good.
            return None, _closed(message)
        if state.remote_id == 0:
            if remote_id == 0:
                raise ProtocolError("adb stream accepted with number 0")
            state.remote_id = remote_id
            return Opened(local_id), None
        if state.remote_id != remote_id or not state.sent:
            return None, None
        state.sent = False
        return Writable(local_id), None

    def _receive_write(self, message: Message) -> Taken:
        _, remote_id, local_id, payload = message
        state = self._states.get(local_id)
        if state is None or state.remote_id != remote_id:
            return None, _closed(message)
        if state.owed:
            raise ProtocolError(f"adb stream {local_id}: a second WRTE before the first was acknowledged")
        state.owed = True
        return Data(local_id, payload), None

    def _receive_close(self, message: Message) -> Taken:
        state = self._states.get(message.arg1)
        # A refused OPEN comes back as CLSE(0, ours); a CLSE of an open stream names both ends.
        if state is None or message.arg0 not in (0, state.remote_id):
            return None, None
        del self._states[message.arg1]
        return Closed(message.arg1, was_open=state.remote_id != 0), _closed(message)

    def _add(self, *, remote_id: int) -> int:
        local_id = self._last_id % 0xFFFFFFFF + 1
        while local_id in self._states:
            local_id = local_id % 0xFFFFFFFF + 1
        self._last_id = local_id
        self._states[local_id] = _State(remote_id)
        return local_id


def _closed(message: Message) -> Message | None:
    """Return the answer to a message of a stream that is closed here; None if it names no stream there."""
    return Message(CLSE, message.arg1, message.arg0) if message.arg0 else None
