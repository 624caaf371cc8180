"""The turn of an event loop: what is put while it reads goes out once it has read all that came."""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol
from weakref import WeakKeyDictionary


class Flushed(Protocol):
    """A stream with something that waits to be handed to the system."""

    def flush(self) -> None:
        """Hand it over now, as far as the system takes it."""


class Turn:
    """The streams of a loop that flush when it has read what came: one call of the loop for all of them."""

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Turn]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._waiting: list[Flushed] = []

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Turn:
        """Return the turn of a loop."""
        turn = cls._of.get(loop)
        if turn is None:
            turn = cls._of[loop] = Turn()
        return turn

    def flush_soon(self, stream: Flushed) -> None:
        """Have a stream flush at the end of this turn; called in the loop."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(stream)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            try:
                stream.flush()
            except Exception as error:  # the others go on
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a stream could not be flushed", "exception": error}
                )
