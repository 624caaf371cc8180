"""Reading what a run kept, of phones or simulated, into one object."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.errors import RunError
from crowdlearn_host.planner.plan import EpochBytes, Plan
from crowdlearn_host.runs.results.joules import Spent, joules_by_device, spent_joules
from crowdlearn_host.runs.results.losses import by_epoch, counted
from crowdlearn_host.runs.results.spent import PrivacySpent, account_of

from .measured import Measured, measured

MAX_BYTES = 512 << 20
MAX_POINTS = 2000
"""Points of a curve that the page keeps; of a longer run every so-manieth."""
PURPOSES = ("activation", "error", "shuffle", "sharing", "recovery", "model", "norm", "control")
"""The purposes of bytes, in the order of the page."""
NUMBERS = frozenset(
    (
        *("time", "epoch", "group", "boundary", "rows", "samples", "samples_per_second"),
        *("loss", "correct", "accuracy", "test_loss", "test_accuracy", "epsilon", "group_epsilon"),
        *("bytes_per_sample", "planned_bytes_per_sample"),
    )
)
"""The keys of lines whose values are numbers."""

Point = tuple[float, float]
Pieces = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class DeviceTraffic:
    """Bytes that one device sent and received."""

    device: str
    sent: int
    received: int


@dataclass(frozen=True)
class PurposeTraffic:
    """Bytes of one purpose that all devices sent and received; in a simulation they are modelled, and what is
    received is not known apart.
    """

    purpose: str
    sent: int
    received: int | None


@dataclass(frozen=True)
class Comparison:
    """A planned and a measured count of bytes, and of what."""

    name: str
    planned: float
    measured: float


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
        rows, events = (_lines(folder / name, damaged) for name in ("metrics.jsonl", "events.jsonl"))
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
    config_text = _text(folder / "config.toml")
    config, plan = parsed(config_text), json.loads(_text(folder / "plan.json") or "{}")
    trained = counted(rows)
    points = list(zip(_samples(trained), trained, strict=True))
    pieces, loads = _pieces(plan)
    loss = [(x, float(row["loss"])) for x, row in points if row.get("loss") is not None]
    accuracy = _accuracy(points, events)
    began, ended = _times(rows, events)
    traffic, of_purposes = _traffic(folder / "run.db")
    ledger = of_purposes or _modelled(rows)
    epochs = _epochs(trained, events)
    model = str(config.get("model", ""))
    name = folder.resolve().name
    return Run(
        name=str(config.get("name") or model or name),
        folder=name,
        model=model,
        simulated=not (folder / "run.db").exists(),
        config=config_text,
        environment=_environment(folder / "environment.json"),
        began=began,
        ended=ended,
        samples=int(points[-1][0]) if points else 0,
        samples_per_second=_speed(points),
        loss=_thinned(loss),
        mean_loss=_thinned(_mean_loss(points)),
        accuracy=_thinned(accuracy),
        epochs=epochs,
        classes=_classes(events),
        measured=measured(rows, events),
        bytes=_bytes(rows, began, ended, ledger),
        ledger=ledger,
        compared=_compared(plan, events, ledger),
        pieces=pieces,
        loads=loads,
        passes=_passes(events),
        traffic=traffic,
        joules=joules_by_device(spent := _spent(plan, events, trained, folder / "run.db")),
        spent=tuple(spent),
        events=tuple(events),
        left_out=sum(not isfinite(y) for _, y in (*loss, *accuracy)),
        damaged=tuple(damaged),
        epsilon=_epsilon(points),
        privacy=account_of(config, [*trained, *events]),
    )


def _epsilon(points: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, tuple[Point, ...]]:
    """Return epsilon over samples, of what rounds tell of."""
    found = {
        name: [(x, float(row[key])) for x, row in points if row.get(key) is not None]
        for name, key in (("of a sample", "epsilon"), ("of a group", "group_epsilon"))
    }
    return {name: _thinned(curve) for name, curve in found.items() if curve}


def parsed(text: str) -> dict[str, Any]:
    """Return a configuration's tables; nothing if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}  # it is shown as it is


def _there(path: Path) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return True


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if _there(path) else ""


def _lines(path: Path, damaged: list[str]) -> list[dict[str, Any]]:
    """Return what the lines tell; of those that tell nothing is told in `damaged`."""
    wrong: list[int] = []
    told = list(read_lines(path, wrong, countable)) if _there(path) else []
    if wrong and not told:
        raise ValueError(f"no line of {path.name} can be read")
    if wrong:
        where = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        damaged.append(f"{path.name}: {len(wrong)} of {len(wrong) + len(told)} lines are damaged ({where})")
    return told


def countable(line: Mapping[str, Any]) -> bool:
    """Return whether what a report reckons with, as far as the line tells it, is numbers or null."""
    spent = line.get("bytes", {})
    if not isinstance(spent, dict):
        return "event" in line  # of which one has a number of bytes
    told = (*(value for key, value in line.items() if key in NUMBERS), *spent.values())
    return all(value is None or isinstance(value, int | float) for value in told)


def _environment(path: Path) -> dict[str, Any]:
    return dict(json.loads(_text(path) or "{}"))


def _samples(rows: list[dict[str, Any]]) -> list[float]:
    """Return samples trained on up to each row: told as such by a simulation, as a mini-batch's rows by
    phones.
    """
    total = 0.0
    samples = []
    for row in rows:
        total = float(row["samples"]) if "samples" in row else total + float(row.get("rows", 0))
        samples.append(total)
    return samples


def _accuracy(points: list[tuple[float, dict[str, Any]]], events: list[dict[str, Any]]) -> list[Point]:
    """Test accuracy in per cent: in a simulation's rows, or in phones' `evaluated` events by their time."""
    told = [(x, 100 * float(row["accuracy"])) for x, row in points if row.get("accuracy") is not None]
    for event in events:
        if event.get("event") == "evaluated" and "test_accuracy" in event:
            before = [x for x, row in points if row.get("time", 0) <= event.get("time", 0)]
            told.append((before[-1] if before else 0.0, 100 * float(event["test_accuracy"])))
    return told


def _times(rows: list[dict[str, Any]], events: list[dict[str, Any]]) -> tuple[float, float]:
    """Return when the run began and ended, as far as its lines tell."""
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
    """Return every epoch, told by phones' `evaluated` events, or by a simulation's rounds."""
    means = by_epoch(trained)
    told: dict[int, dict[str, Any]] = {}
    for row in trained:
        if "epoch" in row and "rows" not in row:
            told[int(row["epoch"])] = {"test_accuracy": row.get("accuracy"), **row}
    for event in events:
        if event.get("event") == "evaluated" and "epoch" in event:
            told[int(event["epoch"])] = event
    return tuple(
        Epoch(
            number,
            means.get(number),
            _number(of.get("test_loss")),
            _number(of.get("test_accuracy")),
            _number(of.get("samples_per_second")),
        )
        for number in sorted({*means, *told})
        for of in (told.get(number, {}),)
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _classes(events: list[dict[str, Any]]) -> tuple[tuple[int, int], ...]:
    for event in reversed(events):
        if event.get("event") == "evaluated" and event.get("classes"):
            return tuple((int(samples), int(correct)) for samples, correct in event["classes"])
    return ()


def _bytes(
    rows: list[dict[str, Any]], began: float, ended: float, ledger: tuple[PurposeTraffic, ...]
) -> dict[str, tuple[Point, ...]]:
    rows = [row for row in rows if "bytes" in row]  # one in a second tells them
    seconds = [float(row.get("time", began)) - began for row in rows]
    curves = {}
    for of in ledger:
        curve = [
            (x, float(row["bytes"].get(of.purpose, 0)) / 1e6) for x, row in zip(seconds, rows, strict=True)
        ]
        if of.sent:
            curves[of.purpose] = (*_thinned(curve), (ended - began, of.sent / 1e6))
    return curves


def _modelled(rows: list[dict[str, Any]]) -> tuple[PurposeTraffic, ...]:
    """Return what a simulation reckons; phones' rows tell it too, up to the last mini-batch."""
    last: dict[str, Any] = next((row["bytes"] for row in reversed(rows) if "bytes" in row), {})
    return tuple(PurposeTraffic(purpose, int(last[purpose]), None) for purpose in sorted(last))


def _compared(
    plan: dict[str, Any], events: list[dict[str, Any]], ledger: tuple[PurposeTraffic, ...]
) -> tuple[Comparison, ...]:
    """Compare planned and measured bytes: of sums and errors a sample; if there was a planner, of each
    purpose an epoch.
    """
    evaluated = [e for e in events if e.get("event") == "evaluated" and "planned_bytes_per_sample" in e]
    found = []
    if evaluated:
        planned, measured = (
            sum(float(e[key]) for e in evaluated) / len(evaluated)
            for key in ("planned_bytes_per_sample", "bytes_per_sample")
        )
        found.append(Comparison("sums and errors, a sample", planned, measured))
    epochs = len({e["epoch"] for e in events if e.get("event") == "epoch"})
    due = _planned_traffic(plan, epochs)
    for each in ledger:
        if epochs and each.purpose in due:
            found.append(
                Comparison(f"{each.purpose}, an epoch", due[each.purpose] / epochs, each.sent / epochs)
            )
    return tuple(found)


def _planned_traffic(plan: dict[str, Any], epochs: int) -> dict[str, float]:
    """Return the bytes that devices send in so many epochs, by purpose, as the plan has them; nothing if it
    has none.
    """
    try:
        return TypeAdapter(EpochBytes).validate_python(plan["traffic"]).sent(epochs)
    except (KeyError, ValidationError):
        return {}


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


def _traffic(path: Path) -> tuple[tuple[DeviceTraffic, ...], tuple[PurposeTraffic, ...]]:
    """Return the ledger of the run, by device and by purpose: `up` is from a device, `down` to it."""
    if not path.exists():
        return (), ()
    query = "select device, direction, purpose, sum(bytes) from traffic group by device, direction, purpose"
    devices: dict[str, dict[str, int]] = {}
    purposes = {purpose: {"up": 0, "down": 0} for purpose in PURPOSES}
    with _ledger(path) as db:
        for device, way, purpose, total in db.execute(query):
            of_device = devices.setdefault(str(device), {"up": 0, "down": 0})
            of_purpose = purposes.setdefault(str(purpose), {"up": 0, "down": 0})
            for of in (of_device, of_purpose):
                of[way] += int(total)
    return (
        tuple(DeviceTraffic(name, of["up"], of["down"]) for name, of in sorted(devices.items())),
        tuple(PurposeTraffic(name, of["up"], of["down"]) for name, of in purposes.items()),
    )


@contextmanager
def _ledger(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a run's database to read it. On a disk that takes no writing, and where nothing waits to be taken
    over from its log, it is read as it is.
    """
    where = path.absolute().as_uri()
    with closing(sqlite3.connect(f"{where}?mode=ro", uri=True)) as db:
        try:
            db.execute("select 1 from sqlite_master").fetchone()
        except sqlite3.OperationalError:
            log = path.with_name(f"{path.name}-wal")
            if log.exists() and log.stat().st_size:
                raise
        else:
            yield db
            return
    with closing(sqlite3.connect(f"{where}?mode=ro&immutable=1", uri=True)) as db:
        yield db


def _spent(
    plan: dict[str, Any], events: list[dict[str, Any]], trained: list[dict[str, Any]], ledger: Path
) -> list[Spent]:
    if not plan.get("fleet") or not ledger.exists():
        return []
    with _ledger(ledger) as db:
        rows = db.execute("select device, direction, purpose, bytes from traffic").fetchall()
    traffic = [dict(zip(("device", "direction", "purpose", "bytes"), row, strict=True)) for row in rows]
    return spent_joules(TypeAdapter(Plan).validate_python(plan), events, trained, traffic)


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """Return at most MAX_POINTS of the finite points, the last among them."""
    points = [point for point in points if all(map(isfinite, point))]
    step = -(-len(points) // MAX_POINTS) or 1
    return tuple(points[::-1][::step][::-1])
