"""The amount of output of a command: -q, -v, -vv and --log-file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from .terminal import printable

log = logging.getLogger("crowdlearn")
"""Everything that commands say of their work, and every event of a run."""
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CHATTY = ("asyncio", "websockets", "numba", "matplotlib", "torch", "onnxscript", "urllib3", "executorch")
"""Libraries whose records below warnings tell nothing of a run."""
TAKES_VALUE = ("--log-file",)
EVERYWHERE = ("-q", "--quiet", "-v", "-vv", "--verbose", "--debug")


@dataclass(frozen=True)
class Verbosity:
    """The amount of output. `quiet`: progress is not shown; `verbose`: 1 shows every event of a run, 2 what
    libraries log, too.
    """

    quiet: bool = False
    verbose: int = 0


CHOSEN: ContextVar[Verbosity] = ContextVar("verbosity", default=Verbosity())  # noqa: B039


@contextmanager
def logs_closed() -> Iterator[None]:
    """Undo `choose` when the context ends."""
    root = logging.getLogger()
    handlers, level, chosen = list(root.handlers), root.level, CHOSEN.get()
    try:
        yield
    finally:
        for handler in set(root.handlers) - set(handlers):
            root.removeHandler(handler)
            handler.close()
        root.setLevel(level)
        CHOSEN.set(chosen)


def choose(verbosity: Verbosity, log_file: Path | None) -> None:
    """Have commands say so much from now on, and log to a file if one is named. Raises OSError if that cannot
    be written.
    """
    CHOSEN.set(verbosity)
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if log_file is not None:
        file = logging.FileHandler(log_file, encoding="utf-8")
        file.setFormatter(_OneLine(FORMAT))
        handlers.append(file)
    if verbosity.verbose > 1:
        screen = logging.StreamHandler(sys.stderr)
        screen.setFormatter(_OneLine("%(levelname)s %(name)s: %(message)s"))
        screen.addFilter(lambda record: record.name != log.name)  # what is said is on the screen already
        handlers.append(screen)
    for handler in handlers:
        handler.addFilter(_Shown(logging.INFO if verbosity.verbose > 1 else logging.WARNING))
        root.addHandler(handler)
    if handlers:
        root.setLevel(logging.DEBUG)


class _Shown(logging.Filter):
    """All records but those of chatty libraries below a level."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = least

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self._least or record.name.partition(".")[0] not in CHATTY


class _OneLine(logging.Formatter):
    """A record in one line, whatever devices have put into it; tracebacks follow as they are."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def log_error(error: BaseException, text: str) -> None:
    """Log an error that ends a command, with its traceback if the log shows that much."""
    trace: tuple[type[BaseException], BaseException, TracebackType | None] = (
        type(error),
        error,
        error.__traceback__,
    )
    # A library that logs for itself adds a handler that would tell the error a second time.
    if any(isinstance(handler.formatter, _OneLine) for handler in logging.getLogger().handlers):
        log.error(text, exc_info=trace)


def options_apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of `crowdlearn` itself on a command line, wherever they stand, and the other words.
    What comes after `--` is not an option.
    """
    own: list[str] = []
    rest: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        if word in EVERYWHERE or word.startswith(tuple(f"{name}=" for name in TAKES_VALUE)):
            own.append(word)
        elif word in TAKES_VALUE and left:
            own += [word, left.pop(0)]
        else:
            rest.append(word)
    return own, rest
