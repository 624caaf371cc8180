"""Large messages on their way through the relay: one at a time for a receiver, and so many bytes in all."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable
from functools import partial
from typing import Any

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol.frames import MAX_FRAME, address_of
from crowdlearn_device.transport.message_stream import LargeMessage

from .arrival import FrameStream

MOST_BYTES = 4 * MAX_FRAME
"""The most bytes of all large messages that come, or wait to be sent, at a time."""
MOST_FOR_HOST = 4 << 20
"""Bytes of the largest message that a device has for the host itself: what grows travels in parts."""


class LargeMessages:
    """The brake on senders: one is held back, before much of its message has come, until the message has
    somewhere to go.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._bytes = most, 0
        self._under_way: Counter[int] = Counter()
        """Messages by their receiver's number."""
        self._changed = asyncio.Event()

    @property
    def bytes(self) -> int:
        """Return the bytes that large messages take now."""
        return self._bytes

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
        if self._fits(large.length, number, receiver):
            self._count(large, number)
            return None
        return self._wait(large, number, receiver)

    def _fits(self, length: int, number: int, receiver: FrameStream | None) -> bool:
        if self._bytes and self._bytes + length > self._most:
            return False
        return number < 0 or (not self._under_way[number] and (receiver is None or receiver.has_room))

    def _count(self, large: LargeMessage, number: int) -> None:
        self._bytes += large.length
        self._under_way[number] += 1
        large.when_gone(partial(self._gone, large.length, number))

    def _gone(self, length: int, number: int) -> None:
        self._bytes -= length
        self._under_way[number] -= 1
        if not self._under_way[number]:
            del self._under_way[number]
        self._changed.set()

    async def _wait(self, large: LargeMessage, number: int, receiver: FrameStream | None) -> None:
        while not self._fits(large.length, number, receiver):
            self._changed.clear()
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._changed.wait())]
            if receiver is not None and not receiver.has_room:
                waits.append(asyncio.ensure_future(receiver.room()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
        self._count(large, number)
