"""Waiting between two attempts to connect."""

from __future__ import annotations

import asyncio
import contextlib
import random

STEADY_SECONDS = 5.0
"""The least seconds of a connection that, cut off, is tried again soon."""


class Retry:
    """The waits of `first` to `last` seconds, doubling, with jitter."""

    def __init__(self, first: float, last: float) -> None:
        self._first, self._last, self._wait = first, last, first

    def lasted(self, seconds: float) -> None:
        """Note how long a connection stood on which both sides were content."""
        if seconds >= STEADY_SECONDS:
            self._wait = self._first

    async def pause(self, over: asyncio.Event) -> None:
        """Wait for the next attempt, or until `over` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._wait * random.uniform(0.5, 1.5)):
                await over.wait()
        self._wait = min(2 * self._wait, self._last)
