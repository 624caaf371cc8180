"""A request to stop a run, from any thread or signal handler."""

from __future__ import annotations

import asyncio
import threading

from crowdlearn_host.errors import Interrupted


class Interrupt:
    """A request that is made once; the run stops at the next point where it can go on later."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def ask(self) -> bool:
        """Ask the run to stop. Returns at once whether training is under way and has heard."""
        self._asked.set()
        if self._waiting is None or self._waiting[0].is_closed():
            return False
        loop, event = self._waiting
        loop.call_soon_threadsafe(event.set)
        return True

    @property
    def asked(self) -> bool:
        """Return True if training was asked to stop."""
        return self._asked.is_set()

    def check(self) -> None:
        """Raise Interrupted if training was asked to stop before it began."""
        if self.asked:
            raise Interrupted("interrupted before training began; start again")

    async def wait(self) -> None:
        """Wait until training is asked to stop."""
        event = asyncio.Event()
        self._waiting = asyncio.get_running_loop(), event
        if not self.asked:
            await event.wait()
