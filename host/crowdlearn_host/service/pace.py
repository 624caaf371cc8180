"""When devices that find no place come again: spread out, so that they never come all at once."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

LEAST_SECONDS, MOST_SECONDS = 30.0, 3600.0
"""The shortest and the longest pause of a device, before lots are drawn."""
A_SECOND = 20
"""Devices that may come again in a second: each is a TLS handshake."""


class Pace:
    """The times at which devices that are sent away are to come again. As many as have been sent away lately
    share the time: about `a_second` of them come in each second.
    """

    def __init__(
        self, lots: random.Random, now: Callable[[], float] = time.monotonic, a_second: float = A_SECOND
    ) -> None:
        self._lots, self._now, self._a_second = lots, now, a_second
        self._sent: deque[float] = deque()
        self.turned_away = 0

    def again(self) -> float:
        """Count a device that is sent away; return seconds after which it is to come again: half to one and
        a half of what the crowd takes.
        """
        now = self._now()
        while self._sent and now - self._sent[0] > LEAST_SECONDS:
            self._sent.popleft()
        self._sent.append(now)
        self.turned_away += 1
        # Those of the last LEAST_SECONDS, if they come again that often, fill so much time.
        taken = len(self._sent) / self._a_second
        wanted = min(max(LEAST_SECONDS, taken), MOST_SECONDS)
        return wanted * self._lots.uniform(0.5, 1.5)
