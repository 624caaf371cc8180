"""Progress of a training run on a terminal, or as plain lines if there is none."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from crowdlearn_host.cli.console.silence import Reminder, clock
from crowdlearn_host.runs.results.losses import EpochLoss

from .gathering import Gathering
from .problems import EACH, PROBLEMS
from .terminal import printable, size
from .verbosity import CHOSEN, log


class TrainingProgress:
    """The display of a run's events as they come, and of its going on while none come.

    On a terminal there is a bar. Elsewhere every line begins with the time since the start, and a reminder
    comes whenever nothing was told for some seconds.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._verbosity = CHOSEN.get()
        self._total: int | None = None
        self._seen = self._sent = 0
        self._started = time.monotonic()
        self._epoch_now = 0
        self._loss = EpochLoss()
        self._status, self._since = "reading the model and the data", time.monotonic()
        self._gathering: Gathering | None = Gathering()
        self._left = ""
        self._together: dict[str, list[str]] = {event: [] for event in EACH}
        self._reminder = Reminder(self._remind)
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[moved]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal or self._verbosity.quiet,
        )
        self._task: TaskID = self._bar.add_task(self._status, total=None, speed="", loss="", moved="")

    def __enter__(self) -> Self:
        self._bar.start()
        self._reminder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tell_together()
        self._reminder.stop()
        self._bar.stop()

    def show(self, event: str, fields: dict[str, Any]) -> None:
        """Take an event of the run."""
        log.debug("%s %s", event, fields)
        self._loss.take(event, fields)
        if self._gathering is not None:
            self._gathering.take(event, fields)
        if event in SHOWN:
            SHOWN[event](self, fields)
        elif event in EACH:
            self._together[event].append(EACH[event].format(**fields))
            if self._gathering is None:
                self._tell_together()
        elif event in PROBLEMS:
            self._problem(event, fields)
        if self._verbosity.verbose and event not in IN_WORDS:
            self._tell(", ".join([event, *(f"{key} {value}" for key, value in fields.items())]))

    def _problem(self, event: str, fields: dict[str, Any]) -> None:
        self._tell(PROBLEMS[event].format(**fields), "yellow", always=True)

    def _prepared(self, fields: dict[str, Any]) -> None:
        """Set the samples that the whole run trains on, each as often as there are epochs; 0 if not known."""
        self._total = fields["samples"] or None
        self._bar.update(self._task, total=self._total)

    def _exporting(self, fields: dict[str, Any]) -> None:
        self._begin(f"exporting {fields['programs']} slice programs")

    def _deployed(self, fields: dict[str, Any]) -> None:
        sleeps = "; it may sleep once its screen is off" if fields.get("awake") == "none" else ""
        self._tell(f"{fields['device']}: {size(fields['bytes'])} pushed{sleeps}")

    def _listening(self, fields: dict[str, Any]) -> None:
        self._tell(
            f"listening on {fields['address']} for {fields['devices']} devices to dial in; "
            "'crowdlearn enrol NAME' prints what to run on each"
        )

    def _wait(self, fields: dict[str, Any]) -> None:
        self._begin("waiting for devices")
        if fields["joining"] and self._gathering is not None:
            self._tell(f"waiting for devices: {self._gathering.summary()}")

    def _assigned(self, fields: dict[str, Any]) -> None:
        self._gathering = None
        self._tell_together()
        self._begin("assigning pieces")

    def _kept(self, fields: dict[str, Any]) -> None:
        self._tell(f"the model is kept by {', '.join(fields['devices'])}")

    def _enough(self, fields: dict[str, Any]) -> None:
        self._tell(
            f"validation gets no better than in {_validated(fields)}; training ends with the current epoch"
        )

    def _chosen(self, fields: dict[str, Any]) -> None:
        self._tell(f"the run's model is that of {_validated(fields)}")

    def _device_left(self, fields: dict[str, Any]) -> None:
        self._left = f"{fields['device']} left: {fields['reason']}"
        self._problem("left", fields)

    def _recovering(self, fields: dict[str, Any]) -> None:
        if fields["why"] != self._left:  # which was the line before
            self._problem("recovering", fields)

    def _paused(self, fields: dict[str, Any]) -> None:
        self._problem("paused", fields)
        self._begin(f"paused: {fields['why']}")

    def _joined(self, fields: dict[str, Any]) -> None:
        text = f"{fields['device']} joined"
        if self._gathering is not None:
            text = f"{text}: {self._gathering.summary()}"
        self._tell(text)

    def _tell_together(self) -> None:
        """Print a line for each problem of devices that came while the run waited for all."""
        for event, each in self._together.items():
            if each:
                self._tell(PROBLEMS[event].format(told="; ".join(each)), "yellow", always=True)
                each.clear()

    def _begin(self, status: str) -> None:
        self._status, self._since = status, time.monotonic()
        self._bar.update(self._task, description=printable(status[:60]))

    def _remind(self) -> None:
        if self._console.is_terminal:
            return  # the bar moves
        since = clock(time.monotonic() - self._since)
        if self._gathering is not None and self._gathering.wanted:
            text = f"{self._status}, since {since}: {self._gathering.summary()}"
        elif self._seen and self._status.startswith("epoch"):
            text = f"{self._status}: {self._seen} of {self._total or '?'} samples, {self._speed()}"
            text += f", {size(self._sent)} sent by devices"
        else:
            text = f"{self._status}, since {since}"
        if self._status.startswith("paused"):
            text += "; it goes on when they are back; Ctrl-C keeps what is reached, for --resume"
        self._tell(text)

    def _tell(self, line: str, style: str = "", *, always: bool = False) -> None:
        """Print one line, whatever devices have put into it; when quiet, only if it is shown `always`."""
        self._reminder.restart()
        log.info(line)
        if self._verbosity.quiet and not always:
            return
        begin = "" if self._console.is_terminal else f"[{clock(self._reminder.elapsed)}] "
        self._console.print(Text(begin + printable(line), style), soft_wrap=not self._console.is_terminal)

    def _compiled(self, fields: dict[str, Any]) -> None:
        """Print a line at the start and at the end; between them the reminder shows how far it is."""
        done, of = fields["done"], fields["of"]
        text = f"compiling slice programs: {done} of {of} methods"
        self._begin(text)
        if done in (0, of):
            self._tell(text)

    def _mini_batch(self, fields: dict[str, Any]) -> None:
        if not self._seen:
            self._started = time.monotonic()
        self._seen += fields["rows"]
        self._epoch_now = max(self._epoch_now, fields["epoch"])
        self._status = f"epoch {fields['epoch'] + 1}"
        self._sent = sum(fields["bytes"].values())
        if self._bar.disable:
            return
        self._bar.update(
            self._task,
            completed=self._seen,
            description=self._status,
            speed=self._speed(),
            loss="" if (loss := self._loss.mean(self._epoch_now)) is None else f"training loss {loss:.3f}",
            moved=size(self._sent),
        )

    def _speed(self) -> str:
        return f"{self._seen / max(time.monotonic() - self._started, 1e-3):.0f} samples/s"

    def _epoch(self, fields: dict[str, Any]) -> None:
        parts = []
        if (loss := fields.get("training_loss")) is not None:
            parts.append(f"training loss {loss:.4f}")
        if "test_loss" in fields:
            parts.append(f"test loss {fields['test_loss']:.4f}")
        if "test_accuracy" in fields:
            parts.append(f"test accuracy {100 * fields['test_accuracy']:.2f} %")
        else:
            parts += [f"test {name} {value:.4f}" for name, value in fields.get("metrics", {}).items()]
        if "validation_loss" in fields:
            parts.append(f"validation loss {fields['validation_loss']:.4f}")
        if "bytes" in fields:
            parts.append(f"{size(sum(fields['bytes'].values()))} sent by devices so far")
        group = f" of group {fields['group'] + 1}" if "group" in fields else ""
        self._tell(f"epoch {fields['epoch'] + 1}{group}: {', '.join(parts)}")


def _validated(fields: dict[str, Any]) -> str:
    """Return the epoch of an event, with its figure on the validation split."""
    return f"epoch {fields['epoch'] + 1}: validation {fields['metric']} {fields['value']:.4f}"


SHOWN = {
    "prepared": TrainingProgress._prepared,
    "exporting": TrainingProgress._exporting,
    "compiled": TrainingProgress._compiled,
    "listening": TrainingProgress._listening,
    "gathering": TrainingProgress._wait,
    "deployed": TrainingProgress._deployed,
    "joined": TrainingProgress._joined,
    "assigned": TrainingProgress._assigned,
    "progress": TrainingProgress._mini_batch,
    "left": TrainingProgress._device_left,
    "recovering": TrainingProgress._recovering,
    "paused": TrainingProgress._paused,
    "evaluated": TrainingProgress._epoch,
    "enough": TrainingProgress._enough,
    "chosen": TrainingProgress._chosen,
    "kept": TrainingProgress._kept,
}
"""Handlers of events. A problem that is not named here is printed in the words of PROBLEMS."""

IN_WORDS = {*PROBLEMS, *SHOWN} - {"prepared", "gathering", "assigned"}
"""Events that have words of their own; the others are printed as they are, if the command is verbose."""
