"""The radio link of a virtual phone: bandwidth each way and delay, shared by all its connections."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from crowdlearn_host.errors import FleetError

Item = TypeVar("Item")


@dataclass(frozen=True)
class LinkModel:
    """Megabits per second down to and up from the phone, round trip in milliseconds.

    `drop_seconds` is the mean time between losses of the connection; 0 for a link that holds.
    """

    down: float
    up: float
    round_trip: float
    drop_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.down <= 0 or self.up <= 0 or self.round_trip < 0 or self.drop_seconds < 0:
            raise FleetError(f"a link needs positive rates and times that are not negative: {self}")


# Medians of 4GTest for LTE (Huang et al., MobiSys 2012); the round trips and the Wi-Fi rates are assumed.
LINKS = {"lte": LinkModel(13, 6, 70), "wifi": LinkModel(50, 25, 10), "weak": LinkModel(2, 0.5, 150, 60)}


class Direction:
    """One way of the link: tells when bytes that are handed over now have passed."""

    def __init__(self, megabits: float, delay: float) -> None:
        self._seconds_a_byte = 8e-6 / megabits
        self._delay = delay
        self.free_at = 0.0
        """When what was handed over has been put on the link."""

    def pass_at(self, count: int, now: float) -> float:
        """When `count` bytes that join the queue at `now` are through."""
        self.free_at = max(self.free_at, now) + count * self._seconds_a_byte
        return self.free_at + self._delay


class DelayLine(Generic[Item]):
    """Delivers items in order, each when the link has carried it."""

    def __init__(self, direction: Direction, deliver: Callable[[Item], None]) -> None:
        self._direction = direction
        self._deliver = deliver
        self._waiting: deque[tuple[float, Item]] = deque()

    def put(self, item: Item, count: int) -> None:
        """Hand over an item of `count` bytes."""
        loop = asyncio.get_running_loop()
        due = self._direction.pass_at(count, loop.time())
        self._waiting.append((due, item))
        if len(self._waiting) == 1:
            loop.call_at(due, self._release)

    def _release(self) -> None:
        _, item = self._waiting[0]
        self._deliver(item)
        self._waiting.popleft()
        if self._waiting:
            asyncio.get_running_loop().call_at(self._waiting[0][0], self._release)
