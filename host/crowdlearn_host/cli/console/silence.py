"""Long silences: a command that works says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.text import Text

from crowdlearn_host.cli.console.terminal import printable
from crowdlearn_host.cli.console.verbosity import CHOSEN, log

SOON, LATER = 5.0, 30.0
"""Seconds of silence before a reminder: in the first minute, and after it."""


def clock(seconds: float) -> str:
    """Return minutes and seconds, as in 1:05; with hours from 3600 seconds on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Reminder:
    """A thread that calls `remind` whenever nothing was told for SOON (later LATER) seconds."""

    def __init__(self, remind: Callable[[], None]) -> None:
        self._remind = remind
        self._began = self._shown_at = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def elapsed(self) -> float:
        """Return seconds since the reminder was made."""
        return time.monotonic() - self._began

    def restart(self) -> None:
        """Note that something was shown now."""
        self._shown_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            patience = SOON if self.elapsed < 60 else LATER
            if self._over.wait(max(self._shown_at + patience - time.monotonic(), 0.05)):
                return
            if time.monotonic() - self._shown_at >= patience:
                self.restart()
                self._remind()


class Working:
    """The work that a command does now: one changing line on a terminal; elsewhere a line for every counted
    step, and again while a step lasts. A command that is soon over says nothing.
    """

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._what = what
        self._since = time.monotonic()
        self._reminder = Reminder(self._remind)
        self._status = console.status("") if console.is_terminal and not CHOSEN.get().quiet else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        self._reminder.start()
        self.step(self._what)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reminder.stop()
        if self._status is not None:
            self._status.stop()

    def step(self, what: str, number: int = 0, of: int = 0) -> None:
        """Tell that this begins now: step `number` of `of`, if they are known."""
        self._what = f"{what}: {number} of {of}" if of else what
        self._since = time.monotonic()
        if self._status is not None:
            self._status.update(Text(printable(self._what)))
        elif of or self._reminder.elapsed > SOON:
            self._reminder.restart()
            self._line(self._what)

    def _remind(self) -> None:
        text = f"{self._what}, since {clock(time.monotonic() - self._since)}"
        if self._status is not None:
            self._status.update(Text(printable(text)))
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        log.info(text)
        if CHOSEN.get().quiet:
            return
        self._console.print(Text(f"[{clock(self._reminder.elapsed)}] {printable(text)}"), soft_wrap=True)
