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

from .terminal import printable
from .verbosity import CHOSEN, log

PROBLEMS = {
    "note": "note: {text}",
    "left": "{device} left: {reason}",
    "recovering": "recovering: {why}",
    "rolled_back": "rolled back to mini-batch {boundary}",
    "paused": "paused: {why}; waiting {grace:.0f} s, then going on without if that is possible",
    "leaving": "{device} is to leave: {reason}",
    "swapped": "{device} gives way to a spare: {reason}",
    "resliced": "no spare left or all back: going on with {pieces} pieces",
    "fault": "{device}: {reason}",
    "throttled": "{device} throttles: it is hot (thermal status {status}), and computes slower than it could",
    "cooled": "{device} has cooled down",
    "declined": "{device} does not take part now: {reason}",
    "relay_failed": "relay process {relay} could not be started ({reason}); again in {again_in:g} s",
    "relay_ended": "relay process {relay} ended (status {status}); its groups go on once another runs",
    "unreachable": "{device} cannot be reached: {reason}",
    "deferred": "{device} does not come back; its turn moves to the end of the epoch",
    "skipped": "{device} misses epoch {epoch}",
    "samples_left": "{left} of {samples} samples are left over: the plan's devices take no more; "
    "raise `samples` in the fleet's file and plan again to train on them",
    "samples_unused": "samples that the plan leaves out, since their phones are never dominator: {told}",
    "stands_in": "the plan does not name {told}",
    "recompiled": "programs are others than those the run began with: what follows may differ by rounding",
    "refused": "refused from {device}: {reason}",
    "budget_spent": "privacy.epsilon is spent, {epsilon:.2f} after {epochs} of {of} epochs: training ends",
    "unrevealed": "{device} may not take part: {reason}",
    "first_weights_anew": "first weights are drawn anew by {devices} devices, attempt {attempt}",
    "sum_contradicted": "a secure sum is not released: a device showed other norms than its values have",
    "norm_refused": "group {group} moved by {norm:.3g}, the bound is {bound:.3g}: it adds to no sum any more",
    "suspicious": "group {group} shares what is unlike the others': {by} {value:.3g}, median {median:.3g}",
    "sum_lost": "a secure sum is lost: {confirmed} of {survivors} devices confirmed it",
}

EACH = {
    "samples_unused": "{samples} of {device}",
    "stands_in": "{device}, which takes what was planned for {planned}",
}
"""Problems that several devices have at once: `told` of all that come together, in one line."""

TOLD = {
    *PROBLEMS,
    "progress",
    "exporting",
    "compiled",
    "deployed",
    "listening",
    "joined",
    "kept",
    "evaluated",
    "enough",
    "chosen",
}
"""Events that are told in words of their own, however verbose the command is."""


def size(count: float) -> str:
    """Return bytes for people."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


class Gathering:
    """The devices that a run waits for before it begins: those named, and so many that dial in."""

    def __init__(self) -> None:
        self.named: tuple[str, ...] = ()
        self.joining = 0
        self.address = ""
        self._names: dict[str, str] = {}
        self._here: set[str] = set()

    def take(self, event: str, fields: dict[str, Any]) -> None:
        match event:
            case "gathering":
                self.named, self.joining = tuple(fields["named"]), fields["joining"]
            case "listening":
                self.address = fields["address"]
            case "deployed":
                self._names[fields["serial"]] = fields["device"]
            case "joined":
                self._here.add(fields["device"])
            case "left":
                self._here.discard(fields["device"])

    @property
    def wanted(self) -> int:
        return len(self.named) + self.joining

    def told(self) -> str:
        """Return how many are here, and what is missing."""
        expected = {self._names.get(name, name): name for name in self.named}
        missing = [name for device, name in expected.items() if device not in self._here]
        dialled = len(self._here - set(expected))
        if (absent := self.joining - dialled) > 0:
            missing.append(f"{absent} to dial in at {self.address}")
        here = f"{min(len(self._here), self.wanted)} of {self.wanted} devices are here"
        return f"{here}; missing: {', '.join(missing)}" if missing else here


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
        self._status, self._since = "preparing", time.monotonic()
        self._gathering: Gathering | None = Gathering()
        self._left: tuple[str, str] = ("", "")
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
        self._task: TaskID = self._bar.add_task("preparing", total=None, speed="", loss="", moved="")

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

    def _expect(self, samples: int) -> None:
        """Set the samples that the whole run trains on, each as often as there are epochs; 0 if not known."""
        self._total = samples or None
        self._bar.update(self._task, total=self._total)

    def show(self, event: str, fields: dict[str, Any]) -> None:
        """Take an event of the run."""
        log.debug("%s %s", event, fields)
        self._loss.take(event, fields)
        if self._gathering is not None:
            self._gathering.take(event, fields)
        if event == "progress":
            self._mini_batch(fields)
        elif event == "prepared":
            self._expect(fields["samples"])
        elif event == "exporting":
            self._begin(f"exporting {fields['programs']} slice programs")
        elif event == "compiled":
            self._compiled(fields["done"], fields["of"])
        elif event == "deployed":
            sleeps = "; it may sleep once its screen is off" if fields.get("awake") == "none" else ""
            self._tell(f"{fields['device']}: {size(fields['bytes'])} pushed{sleeps}")
        elif event == "listening":
            self._tell(
                f"listening on {fields['address']} for {fields['devices']} devices to dial in; "
                "'crowdlearn enrol NAME' prints what to run on each"
            )
        elif event == "gathering":
            self._begin("waiting for devices")
            if fields["joining"] and self._gathering is not None:
                self._tell(f"waiting for devices: {self._gathering.told()}")
        elif event == "joined":
            self._joined(fields)
        elif event in EACH:
            self._together[event].append(EACH[event].format(**fields))
            if self._gathering is None:
                self._tell_together()
        elif event == "assigned":
            self._gathering = None
            self._tell_together()
            self._begin("assigning pieces")
        elif event == "kept":
            self._tell(f"the model is kept by {', '.join(fields['devices'])}")
        elif event == "evaluated":
            self._epoch(fields)
        elif event in ("enough", "chosen"):
            best = "epoch {epoch}: validation {metric} {value:.4f}".format(
                **{**fields, "epoch": fields["epoch"] + 1}
            )
            self._tell(
                f"the run's model is that of {best}"
                if event == "chosen"
                else f"validation gets no better than in {best}; training ends with the epoch under way"
            )
        elif event == "recovering" and fields["why"] == "{} left: {}".format(*self._left):
            pass  # the line before said so
        elif event in PROBLEMS:
            self._tell(PROBLEMS[event].format(**fields), "yellow", always=True)
        if self._verbosity.verbose and event not in TOLD:
            self._tell(", ".join([event, *(f"{key} {value}" for key, value in fields.items())]))
        if event == "left":
            self._left = str(fields["device"]), str(fields["reason"])
        if event == "paused":
            self._begin(f"paused: {fields['why']}")

    def _joined(self, fields: dict[str, Any]) -> None:
        told = f"{fields['device']} joined"
        if self._gathering is not None:
            told = f"{told}: {self._gathering.told()}"
        self._tell(told)

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
            told = f"{self._status}, since {since}: {self._gathering.told()}"
        elif self._seen and self._status.startswith("epoch"):
            told = f"{self._status}: {self._seen} of {self._total or '?'} samples, {self._speed()}"
            told += f", {size(self._sent)} sent by devices"
        else:
            told = f"{self._status}, since {since}"
        if self._status.startswith("paused"):
            told += "; it goes on when they are back; Ctrl-C keeps what is reached, for --resume"
        self._tell(told)

    def _tell(self, line: str, style: str = "", *, always: bool = False) -> None:
        """Print one line, whatever devices have put into it; when quiet, only if it is shown `always`."""
        self._reminder.told()
        log.info(line)
        if self._verbosity.quiet and not always:
            return
        begin = "" if self._console.is_terminal else f"[{clock(self._reminder.elapsed)}] "
        self._console.print(Text(begin + printable(line), style), soft_wrap=not self._console.is_terminal)

    def _compiled(self, done: int, of: int) -> None:
        """Print a line at the start and at the end; between them the reminder shows how far it is."""
        told = f"compiling slice programs: {done} of {of} methods"
        self._begin(told)
        if done in (0, of):
            self._tell(told)

    def _mini_batch(self, fields: dict[str, Any]) -> None:
        if not self._seen:
            self._started = time.monotonic()
        self._seen += fields["rows"]
        self._epoch_now = max(self._epoch_now, fields["epoch"])
        self._status = f"epoch {fields['epoch'] + 1}"
        self._sent = sum(fields["bytes"].values())
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
        told = []
        if (loss := fields.get("training_loss")) is not None:
            told.append(f"training loss {loss:.4f}")
        if "test_loss" in fields:
            told.append(f"test loss {fields['test_loss']:.4f}")
        if "test_accuracy" in fields:
            told.append(f"test accuracy {100 * fields['test_accuracy']:.2f} %")
        else:
            told += [f"test {name} {value:.4f}" for name, value in fields.get("metrics", {}).items()]
        if "validation_loss" in fields:
            told.append(f"validation loss {fields['validation_loss']:.4f}")
        if "bytes" in fields:
            told.append(f"{size(sum(fields['bytes'].values()))} sent by devices so far")
        group = f" of group {fields['group'] + 1}" if "group" in fields else ""
        self._tell(f"epoch {fields['epoch'] + 1}{group}: {', '.join(told)}")
