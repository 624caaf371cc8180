"""A run as its report shows it, read from the folder of a run on phones or of a simulation."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from crowdlearn_host.errors import RunError
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.runs.results.joules import Spent, joules_by_device, spent_joules
from crowdlearn_host.runs.results.losses import by_epoch, counted
from crowdlearn_host.runs.results.spent import PrivacySpent, account_of

from .charts import Point, thinned
from .ledger import (
    Comparison,
    DeviceTraffic,
    PurposeTraffic,
    by_device,
    by_purpose,
    bytes_over_time,
    compared,
    modelled,
    traffic_of,
)
from .lines import lines_of, text_of
from .measured import Measured, measured

Pieces = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class Epoch:
    """An epoch of all groups, or of one: losses are means a sample, `test_accuracy` is a share."""

    number: int
    training_loss: float | None
    test_loss: float | None
    test_accuracy: float | None
    samples_per_second: float | None


@dataclass(frozen=True)
class Run:
    """A run as read from its folder.

    Loss and accuracy are over samples; `bytes` holds a curve of megabytes, sent by devices, over seconds for
    each purpose, which ends in the ledger's total. `pieces` are the plan's ranges of neurons by piece and
    layer. `loads` are the multiplications a sample of each piece, empty if an older version did not count
    them. `passes` has how often each device was dominator. `joules` is what each spent by the plan's model,
    and `spent` the same by piece and purpose; both are empty if the plan has no costs of work. `classes` has
    the samples of each class, and how many of them the last evaluation found; `measured` has what evaluations
    told beside these. `began` and `ended` are seconds since 1970, 0 if they are not known. `left_out` counts
    the records of loss or accuracy that are not finite, which curves do without; `damaged` names the files of
    which lines could not be read. `epsilon` are curves of what noise has spent, by what it protects, and
    `privacy` is the account at the end.
    """

    name: str
    folder: str
    model: str
    simulated: bool
    config: str
    environment: dict[str, Any]
    began: float
    ended: float
    samples: int
    samples_per_second: float | None
    loss: tuple[Point, ...]
    mean_loss: tuple[Point, ...]
    accuracy: tuple[Point, ...]
    epochs: tuple[Epoch, ...]
    classes: tuple[tuple[int, int], ...]
    measured: Measured
    bytes: dict[str, tuple[Point, ...]]
    ledger: tuple[PurposeTraffic, ...]
    compared: tuple[Comparison, ...]
    pieces: Pieces
    loads: tuple[float, ...]
    passes: dict[str, int]
    traffic: tuple[DeviceTraffic, ...]
    joules: dict[str, float]
    spent: tuple[Spent, ...]
    events: tuple[dict[str, Any], ...]
    left_out: int
    damaged: tuple[str, ...]
    epsilon: dict[str, tuple[Point, ...]]
    privacy: PrivacySpent

    @property
    def training_loss(self) -> float | None:
        """Return the training loss of the last epoch that has one."""
        return next((e.training_loss for e in reversed(self.epochs) if e.training_loss is not None), None)

    @property
    def test_loss(self) -> float | None:
        """Return the test loss of the last evaluation."""
        return next((e.test_loss for e in reversed(self.epochs) if e.test_loss is not None), None)


def read_run(folder: Path) -> Run:
    """Return the run in `folder`. Raises RunError if it holds none, or what it holds cannot be read."""
    if not (folder / "metrics.jsonl").is_file():
        raise RunError(f"{folder} has no metrics.jsonl; name the folder of a run")
    try:
        damaged: list[str] = []
        rows, events = (lines_of(folder / name, damaged) for name in ("metrics.jsonl", "events.jsonl"))
        return assembled(folder, rows, events, damaged)
    except DAMAGED as error:
        raise RunError(
            f"{folder} is damaged or from another version ({error}); name the folder of another run"
        ) from error


DAMAGED = (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError, sqlite3.DatabaseError)
"""The errors that reading a damaged run, or one of another version, raises."""


def assembled(
    folder: Path, rows: list[dict[str, Any]], events: list[dict[str, Any]], damaged: Sequence[str] = ()
) -> Run:
    """Return the run with these lines of metrics.jsonl and events.jsonl, of which some were `damaged`.

    Raises one of DAMAGED if a file or a line is of no run.
    """
    config_text = text_of(folder / "config.toml")
    config, plan = parsed(config_text), json.loads(text_of(folder / "plan.json") or "{}")
    trained = counted(rows)
    points = list(zip(_samples(trained), trained, strict=True))
    pieces, loads = _pieces(plan)
    loss = [(x, float(row["loss"])) for x, row in points if row.get("loss") is not None]
    accuracy = _accuracy(points, events)
    began, ended = _times(rows, events)
    simulated = not (folder / "run.db").exists()
    traffic = [] if simulated else traffic_of(folder / "run.db")
    ledger = modelled(rows) if simulated else by_purpose(traffic)
    spent = [] if simulated else _spent(plan, events, trained, traffic)
    epochs = _epochs(trained, events)
    model = str(config.get("model", ""))
    name = folder.resolve().name
    return Run(
        name=str(config.get("name") or model or name),
        folder=name,
        model=model,
        simulated=simulated,
        config=config_text,
        environment=_environment(folder / "environment.json"),
        began=began,
        ended=ended,
        samples=int(points[-1][0]) if points else 0,
        samples_per_second=_speed(points),
        loss=thinned(loss),
        mean_loss=thinned(_mean_loss(points)),
        accuracy=thinned(accuracy),
        epochs=epochs,
        classes=_classes(events),
        measured=measured(rows, events),
        bytes=bytes_over_time(rows, began, ended, ledger),
        ledger=ledger,
        compared=compared(plan, events, ledger),
        pieces=pieces,
        loads=loads,
        passes=_passes(events),
        traffic=by_device(traffic),
        joules=joules_by_device(spent),
        spent=tuple(spent),
        events=tuple(events),
        left_out=sum(not isfinite(y) for _, y in (*loss, *accuracy)),
        damaged=tuple(damaged),
        epsilon=_epsilon(points),
        privacy=account_of(config, [*trained, *events]),
    )


def _epsilon(points: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, tuple[Point, ...]]:
    """Return the epsilon of a sample and of a group over samples, if the rows have them."""
    found = {
        name: [(x, float(row[key])) for x, row in points if row.get(key) is not None]
        for name, key in (("of a sample", "epsilon"), ("of a group", "group_epsilon"))
    }
    return {name: thinned(curve) for name, curve in found.items() if curve}


def parsed(text: str) -> dict[str, Any]:
    """Return the tables of a run's description; none if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}  # the page shows the text as it is


def _environment(path: Path) -> dict[str, Any]:
    return dict(json.loads(text_of(path) or "{}"))


def _samples(rows: list[dict[str, Any]]) -> list[float]:
    """Return the samples trained on up to each row: rows of a simulation have their sum, those of phones the
    samples of one mini-batch.
    """
    total = 0.0
    samples = []
    for row in rows:
        total = float(row["samples"]) if "samples" in row else total + float(row.get("rows", 0))
        samples.append(total)
    return samples


def _accuracy(points: list[tuple[float, dict[str, Any]]], events: list[dict[str, Any]]) -> list[Point]:
    """Return test accuracy in per cent over samples, from rows or from `evaluated` events by their time."""
    measured = [(x, 100 * float(row["accuracy"])) for x, row in points if row.get("accuracy") is not None]
    for event in events:
        if event.get("event") == "evaluated" and "test_accuracy" in event:
            before = [x for x, row in points if row.get("time", 0) <= event.get("time", 0)]
            measured.append((before[-1] if before else 0.0, 100 * float(event["test_accuracy"])))
    return measured


def _times(rows: list[dict[str, Any]], events: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the times of the first and the last line, 0 if no line has one."""
    times = [
        float(line["time"]) for line in (*rows[:1], *rows[-1:], *events[:1], *events[-1:]) if "time" in line
    ]
    if rows and "samples_per_second" in rows[0] and "samples" in rows[0]:  # a simulation's first round
        times.append(min(times) - float(rows[0]["samples"]) / max(float(rows[0]["samples_per_second"]), 1e-9))
    return (min(times), max(times)) if times else (0.0, 0.0)


def _speed(points: list[tuple[float, dict[str, Any]]]) -> float | None:
    """Return samples a second from the end of the first mini-batch or round to that of the last."""
    timed = [(float(row["time"]), x) for x, row in points if "time" in row]
    seconds = timed[-1][0] - timed[0][0] if timed else 0.0
    return (timed[-1][1] - timed[0][1]) / seconds if seconds > 0 else None


def _mean_loss(points: list[tuple[float, dict[str, Any]]]) -> list[Point]:
    """Return the training loss of every epoch, at the samples where the epoch ended."""
    means = by_epoch(row for _, row in points)
    ends = {int(row.get("epoch", 0)): x for x, row in points if row.get("loss") is not None}
    return [(ends[epoch], mean) for epoch, mean in means.items()]


def _epochs(trained: list[dict[str, Any]], events: list[dict[str, Any]]) -> tuple[Epoch, ...]:
    """Return every epoch, from the `evaluated` events of phones or the rounds of a simulation."""
    means = by_epoch(trained)
    fields: dict[int, dict[str, Any]] = {}
    for row in trained:
        if "epoch" in row and "rows" not in row:
            fields[int(row["epoch"])] = {"test_accuracy": row.get("accuracy"), **row}
    for event in events:
        if event.get("event") == "evaluated" and "epoch" in event:
            fields[int(event["epoch"])] = event
    return tuple(
        Epoch(
            number,
            means.get(number),
            _number(of.get("test_loss")),
            _number(of.get("test_accuracy")),
            _number(of.get("samples_per_second")),
        )
        for number in sorted({*means, *fields})
        for of in (fields.get(number, {}),)
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _classes(events: list[dict[str, Any]]) -> tuple[tuple[int, int], ...]:
    for event in reversed(events):
        if event.get("event") == "evaluated" and event.get("classes"):
            return tuple((int(samples), int(correct)) for samples, correct in event["classes"])
    return ()


def _pieces(plan: dict[str, Any]) -> tuple[Pieces, tuple[float, ...]]:
    pieces = plan.get("pieces", [])
    rows = [piece["neurons"] if isinstance(piece, dict) else piece for piece in pieces]
    loads = tuple(float(piece.get("macs", 0)) for piece in pieces if isinstance(piece, dict))
    return (
        tuple(tuple((int(start), int(stop)) for start, stop in row) for row in rows),
        loads if any(loads) else (),
    )


def _passes(events: list[dict[str, Any]]) -> dict[str, int]:
    passes: dict[str, int] = {}
    for event in events:
        if event.get("event") == "pass":
            device = str(event.get("device"))
            passes[device] = passes.get(device, 0) + 1
    return passes


def _spent(
    plan: dict[str, Any],
    events: list[dict[str, Any]],
    trained: list[dict[str, Any]],
    traffic: list[dict[str, Any]],
) -> list[Spent]:
    if not plan.get("fleet"):
        return []
    return spent_joules(TypeAdapter(Plan).validate_python(plan), events, trained, traffic)
