"""A run that trains in a thread of its own, to be watched, stopped and waited for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from crowdlearn_host.runs.interrupt import Interrupt

from .run import Run


@dataclass(frozen=True)
class Event:
    """Something that happened in a run: its `name`, and its `fields` as events.jsonl and metrics.jsonl have
    them.

    The most frequent are "progress" (a mini-batch: group, epoch, boundary, rows, loss, bytes), "evaluated"
    (an epoch: test_loss, test_accuracy, training_loss) and "left" (device, reason). The how-to on
    reading a run folder tells more.
    """

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]
"""A function that is called with every event, in the thread that trains. An exception of it ends the run."""

Work = Callable[[Callable[[str, dict[str, Any]], None], Interrupt], Run]


def heard_by(listeners: Sequence[Listener]) -> Callable[[str, dict[str, Any]], None]:
    """Return a function that passes every event to each of the listeners."""

    def hear(name: str, fields: dict[str, Any]) -> None:
        event = Event(name, dict(fields))
        for listener in listeners:
            listener(event)

    return hear


class Training:
    """A run under way. Iterating over it yields its events until it is over, and raises the error that ended
    it, unless `stop` was called.

    As a context manager it stops the run when the block ends. A run that was stopped goes on with `resume`.
    """

    def __init__(self, work: Work, listeners: Sequence[Listener] = ()) -> None:
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._interrupt = Interrupt()
        self._listeners = tuple(listeners)
        self._run: Run | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._train, args=(work,), name="crowdlearn", daemon=True)
        self._thread.start()

    def _train(self, work: Work) -> None:
        try:
            self._run = work(heard_by((*self._listeners, self._take)), self._interrupt)
        except BaseException as error:  # raised by `result`
            self._error = error
        finally:
            self._events.put(None)

    def _take(self, event: Event) -> None:
        self._events.put(event)

    def __iter__(self) -> Iterator[Event]:
        """Yield events as they come. Ends when the run is over. Raises the error that ended it, as `result`
        does, if it was not asked to stop.
        """
        while (event := self._events.get()) is not None:
            yield event
        self._events.put(None)  # for whoever iterates next
        if self._error is not None and not self._interrupt.asked:
            raise self._error

    @property
    def running(self) -> bool:
        """Return True if the run is under way."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Ask the run to stop where it can go on later. Returns at once."""
        self._interrupt.ask()

    def result(self, timeout: float | None = None) -> Run:
        """Wait for the end, for at most `timeout` seconds, and return the run.

        Raises the error that ended it: TrainingError if it was stopped. Raises TimeoutError if it is not
        over.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the run is not over after {timeout} s; wait longer, or stop it")
        if self._error is not None:
            raise self._error
        assert self._run is not None
        return self._run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._thread.join()
