"""Progress of a training run on a terminal, or as plain lines where there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from .terminal import printable

PROBLEMS = {
    "left": "{device} left: {reason}",
    "recovering": "recovering: {why}",
    "rolled_back": "rolled back to mini-batch {boundary}",
    "paused": "paused: {why}",
    "leaving": "{device} asks to go: {reason}",
    "swapped": "{device} gives way to a spare: {reason}",
    "resliced": "no spare left or all back: going on with {pieces} pieces",
    "fault": "{device}: {reason}",
    "declined": "{device} does not take part now: {reason}",
    "unreachable": "{device} cannot be reached: {reason}",
    "deferred": "{device} does not come back; its turn moves to the end of the epoch",
    "skipped": "{device} misses epoch {epoch}",
    "stands_in": "the plan does not name {device}; it takes what was planned for {planned}",
    "recompiled": "programs are others than those the run began with: what follows may differ by rounding",
    "refused": "refused from {device}: {reason}",
}


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


class TrainingProgress:
    """Shows events as they come. `samples` of one epoch and `epochs` give the time left."""

    def __init__(self, console: Console, samples: int, epochs: int) -> None:
        self._console = console
        self._total = samples * epochs
        self._seen = 0
        self._started = time.monotonic()
        self._loss: float | None = None
        self._groups = 1
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[moved]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: TaskID = self._bar.add_task(
            "preparing", total=self._total or None, speed="", loss="", moved=""
        )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, event: str, fields: dict[str, Any]) -> None:
        """Take an event of the run."""
        if event == "progress":
            self._mini_batch(fields)
        elif event == "exporting":
            self._tell(f"exporting slice program {fields['number']}: neurons by layer {fields['shape']}")
        elif event == "deployed":
            self._tell(f"{fields['device']}: {size(fields['bytes'])} pushed")
        elif event == "kept":
            self._tell(f"the model is kept by {', '.join(fields['devices'])}")
        elif event == "evaluated":
            self._epoch(fields)
        elif event in PROBLEMS:
            self._tell(PROBLEMS[event].format(**fields), "yellow")

    def _tell(self, line: str, style: str = "") -> None:
        """One line, whatever devices have put into it."""
        self._console.print(Text(printable(line), style))

    def _mini_batch(self, fields: dict[str, Any]) -> None:
        if not self._seen:
            self._started = time.monotonic()
        self._seen += fields["rows"]
        self._groups = max(self._groups, fields.get("group", 0) + 1)
        loss = fields["loss"]
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        speed = self._seen / max(time.monotonic() - self._started, 1e-3)
        self._bar.update(
            self._task,
            completed=self._seen,
            description=f"epoch {fields['epoch'] + 1}",
            speed=f"{speed:.0f} samples/s",
            loss=f"loss {self._loss:.3f}",
            moved=size(sum(fields["bytes"].values())),
        )

    def _epoch(self, fields: dict[str, Any]) -> None:
        test = f", test accuracy {100 * fields['test_accuracy']:.2f} %" if "test_accuracy" in fields else ""
        loss = f"loss {self._loss:.4f}" if self._loss is not None else "no mini-batch"
        moved = size(sum(fields["bytes"].values()))
        group = f" of group {fields['group'] + 1}" if "group" in fields else ""
        self._tell(f"epoch {fields['epoch'] + 1}{group}: {loss}{test}, {moved} sent so far")
