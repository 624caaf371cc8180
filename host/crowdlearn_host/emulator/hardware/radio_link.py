"""The radio link of a virtual phone: bandwidth each way and delay, shared by all its connections."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crowdlearn_host.errors import FleetError

Item = TypeVar("Item")


@dataclass(frozen=True)
class LinkModel:
    """The model of a link: megabits per second down to and up from the phone, round trip in milliseconds.

    `drop_seconds` is the mean time between losses of the connection; 0 for a link that holds. `radio` is the
    kind of radio, which says what a byte costs.
    """

    down: float
    up: float
    round_trip: float
    drop_seconds: float = 0.0
    radio: str = "wifi"

    def __post_init__(self) -> None:
        if self.down <= 0 or self.up <= 0 or self.round_trip < 0 or self.drop_seconds < 0:
            raise FleetError(f"a link needs positive rates and times that are not negative: {self}")


# Medians of 4GTest for LTE (Huang et al., MobiSys 2012); the round trips and the Wi-Fi rates are assumed.
LINKS = {
    "lte": LinkModel(13, 6, 70, radio="lte"),
    "wifi": LinkModel(50, 25, 10),
    "weak": LinkModel(2, 0.5, 150, 60, "lte"),
}


@dataclass(eq=False)
class Passage:
    """Bytes that take `seconds` of the link and have been put on it at `end`."""

    line: "DelayLine[Any]"
    seconds: float
    end: float


class Direction:
    """One way of the link: tells when bytes that are handed over now have passed."""

    def __init__(self, megabits: float, delay: float) -> None:
        self._seconds_a_byte = 8e-6 / megabits
        self.delay = delay
        """Seconds from the end of a passage to its arrival."""
        self.free_at = 0.0
        """The time at which what was handed over has been put on the link."""
        self._passages: deque[Passage] = deque()

    def join(self, line: "DelayLine[Any]", count: int, now: float) -> Passage:
        """Return the passage of `count` bytes that join the queue at `now`."""
        while self._passages and self._passages[0].end <= now:
            self._passages.popleft()
        seconds = count * self._seconds_a_byte
        self.free_at = max(self.free_at, now) + seconds
        self._passages.append(Passage(line, seconds, self.free_at))
        return self._passages[-1]

    def leave(self, line: "DelayLine[Any]", now: float) -> None:
        """Forget what a line still had to pass: what others have behind it comes sooner."""
        self._passages = deque(p for p in self._passages if p.end > now and p.line is not line)
        self.free_at = now
        for passage in self._passages:
            if passage.end - passage.seconds > now:
                passage.end = self.free_at + passage.seconds
            self.free_at = passage.end
        for other in {passage.line for passage in self._passages}:
            other.schedule()


class DelayLine(Generic[Item]):
    """A line that delivers items in order, each when the link has carried it."""

    def __init__(self, direction: Direction, deliver: Callable[[Item], None]) -> None:
        self._direction = direction
        self._deliver = deliver
        self._waiting: deque[tuple[Passage, Item]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, item: Item, count: int) -> None:
        """Hand over an item of `count` bytes."""
        passage = self._direction.join(self, count, time.monotonic())
        self._waiting.append((passage, item))
        if len(self._waiting) == 1:
            self.schedule()

    def schedule(self) -> None:
        """Have the first item delivered when its passage is over."""
        if self._timer:
            self._timer.cancel()
        if self._waiting:
            due = self._waiting[0][0].end + self._direction.delay
            self._timer = asyncio.get_running_loop().call_at(due, self._release)

    def close(self) -> None:
        """Deliver nothing more, and leave the link to others."""
        self._waiting.clear()
        self.schedule()
        self._direction.leave(self, time.monotonic())

    def _release(self) -> None:
        self._deliver(self._waiting[0][1])
        if self._waiting:  # what was delivered may have closed the line
            self._waiting.popleft()
            self.schedule()
