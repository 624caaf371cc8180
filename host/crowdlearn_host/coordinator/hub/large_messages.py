"""Large messages on their way through the relay: one at a time for a receiver, and so many bytes in all."""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import MAX_FRAME, address_of
from crowdlearn_device.transport.large_message import LargeMessage

from .arrival import FrameStream

MOST_IN_MEMORY, MOST_ON_DISK = MAX_FRAME, 16 * MAX_FRAME
"""Bytes of all large messages between devices that come, or wait to be sent, at a time."""
MOST_FOR_HOST = 4 << 20
"""Bytes of the largest message that a device has for the host itself: what grows travels in parts."""
MOST_AT_HOST = 4 * MOST_FOR_HOST
PATIENCE = 30.0
"""Seconds in which something of a message must move while others wait for its room."""
_MEMORY, _DISK, _HOST = "memory", "disk", "host"


class _Held:
    """A message that takes room. It comes over one connection and goes over another."""

    def __init__(self, large: LargeMessage, receiver: FrameStream | None) -> None:
        self._large, self._receiver = weakref.ref(large), receiver
        self._seen, self._since = (-1, -1), 0.0

    def look(self, now: float) -> None:
        """End the connection that it waits for, if nothing of it has moved for too long."""
        large = self._large()
        coming = large if large is not None and not large.is_whole else None
        going = 0 if self._receiver is None else self._receiver.queued
        seen = (coming.come, 0) if coming is not None else (-2, going)
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif now - self._since >= PATIENCE:
            if coming is not None:
                coming.give_up()
            elif self._receiver is not None:
                self._receiver.abort()


class LargeMessages:
    """The brake on senders: one is held back, before much of its message has come, until the message has
    somewhere to go. What memory may not hold lies in `folder`, if there is one.
    """

    def __init__(
        self, folder: Path | None = None, most: int = MOST_IN_MEMORY, on_disk: int = MOST_ON_DISK
    ) -> None:
        self._folder = folder
        self._most = {_MEMORY: most, _DISK: on_disk if folder else 0, _HOST: MOST_AT_HOST}
        self._bytes = dict.fromkeys(self._most, 0)
        self._under_way: Counter[int] = Counter()
        """Messages by their receiver's number."""
        self._held: dict[int, _Held] = {}
        self._numbers = 0
        self._changed = asyncio.Event()

    @property
    def bytes(self) -> int:
        """Return the bytes that large messages take now."""
        return sum(self._bytes.values())

    @property
    def bytes_on_disk(self) -> int:
        """Return those of them that lie on disk."""
        return self._bytes[_DISK]

    def admit(self, large: LargeMessage, receiver: FrameStream | None) -> Awaitable[None] | None:
        """Let a message in, at once or when what is returned is over; `receiver` is where it goes, if it is
        here. Raises WireError if it is for the host and too large.
        """
        address = address_of(large.head)
        if address is None:
            if large.length > MOST_FOR_HOST:
                raise WireError(f"message of {large.length} bytes to the host; at most {MOST_FOR_HOST}")
            number = -1
        else:
            number = address.receiver
        if self._may_go(number, receiver) and self._takes(large, number, receiver):
            return None
        return self._wait(large, number, receiver)

    def _may_go(self, number: int, receiver: FrameStream | None) -> bool:
        return number < 0 or (not self._under_way[number] and (receiver is None or receiver.has_room))

    def _takes(self, large: LargeMessage, number: int, receiver: FrameStream | None) -> bool:
        """Give a message room; return whether there is any."""
        places = (_HOST,) if number < 0 else (_MEMORY, _DISK)
        for place in places:
            if self._bytes[place] + large.length > self._most[place]:
                continue
            if place == _DISK and self._folder is not None:
                try:
                    large.make_room_in(self._folder)
                except OSError:
                    continue  # the disk is full: it waits
            self._count(large, place, number, receiver)
            return True
        return False

    def _count(self, large: LargeMessage, place: str, number: int, receiver: FrameStream | None) -> None:
        self._bytes[place] += large.length
        self._under_way[number] += 1
        self._numbers += 1
        if number >= 0:
            self._held[self._numbers] = _Held(large, receiver)
        large.when_gone(partial(self._gone, self._numbers, large.length, place, number))

    def _gone(self, held: int, length: int, place: str, number: int) -> None:
        self._held.pop(held, None)
        self._bytes[place] -= length
        self._under_way[number] -= 1
        if not self._under_way[number]:
            del self._under_way[number]
        self._changed.set()

    async def _wait(self, large: LargeMessage, number: int, receiver: FrameStream | None) -> None:
        loop = asyncio.get_running_loop()
        while not (self._may_go(number, receiver) and self._takes(large, number, receiver)):
            if self._may_go(number, receiver):  # it waits for room alone
                for held in list(self._held.values()):
                    held.look(loop.time())
            self._changed.clear()
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._changed.wait())]
            if receiver is not None and not receiver.has_room:
                waits.append(asyncio.ensure_future(receiver.room()))
            try:
                await asyncio.wait(waits, timeout=PATIENCE / 10, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
