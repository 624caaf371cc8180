"""Reading what a run kept, of phones or simulated, into one object."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.errors import RunError

MAX_BYTES = 512 << 20
MAX_POINTS = 2000
"""Points of a curve that the page keeps; of a longer run every so-manieth."""

Point = tuple[float, float]
Pieces = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class DeviceTraffic:
    """Bytes that one device sent and received."""

    device: str
    sent: int
    received: int


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Loss and accuracy are over samples; `bytes` holds a curve of megabytes over seconds for each purpose.
    `pieces` are the plan's ranges of neurons by piece and layer, `loads` the multiplications a sample that
    the planner gave each piece (empty where none planned), `passes` how often each device was dominator.
    `left_out` counts the records of loss or accuracy that are not finite, which curves do without.
    """

    name: str
    config: str
    environment: dict[str, Any]
    loss: tuple[Point, ...]
    accuracy: tuple[Point, ...]
    bytes: dict[str, tuple[Point, ...]]
    pieces: Pieces
    loads: tuple[float, ...]
    passes: dict[str, int]
    traffic: tuple[DeviceTraffic, ...]
    events: tuple[dict[str, Any], ...]
    left_out: int


def read_run(folder: Path) -> Run:
    """The run in `folder`. Raises RunError where it holds none, or what it holds cannot be read."""
    if not (folder / "metrics.jsonl").is_file():
        raise RunError(f"{folder} has no metrics.jsonl; name the folder of a run")
    try:
        rows, events = _lines(folder / "metrics.jsonl"), _lines(folder / "events.jsonl")
        counted = _counted(rows)
        points = list(zip(_samples(counted), counted, strict=True))
        pieces, loads = _pieces(folder / "plan.json")
        loss = [(x, float(row["loss"])) for x, row in points if row.get("loss") is not None]
        accuracy = _accuracy(points, events)
        return Run(
            folder.resolve().name,
            _text(folder / "config.toml"),
            _environment(folder / "environment.json"),
            _thinned(loss),
            _thinned(accuracy),
            _bytes(rows),
            pieces,
            loads,
            _passes(events),
            _traffic(folder / "run.db"),
            tuple(events),
            sum(not isfinite(y) for _, y in (*loss, *accuracy)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OSError, sqlite3.DatabaseError) as error:
        raise RunError(
            f"{folder} is damaged or from another version ({error}); nothing is told of it"
        ) from error


def _there(path: Path) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_BYTES} bytes")
    return True


def _text(path: Path) -> str:
    return path.read_text("utf-8", errors="replace") if _there(path) else ""


def _lines(path: Path) -> list[dict[str, Any]]:
    return list(read_lines(path)) if _there(path) else []


def _counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows but those that their group, back at an earlier boundary after a recovery, trained again."""
    reached: dict[int, float] = {}
    counted = []
    for row in reversed(rows):
        if "boundary" in row:  # phones' rows
            group, boundary = int(row.get("group", 0)), float(row["boundary"])
            if boundary >= reached.get(group, inf):
                continue
            reached[group] = boundary
        counted.append(row)
    return counted[::-1]


def _environment(path: Path) -> dict[str, Any]:
    return dict(json.loads(_text(path) or "{}"))


def _samples(rows: list[dict[str, Any]]) -> list[float]:
    """Samples trained on up to each row: told as such by a simulation, as a mini-batch's rows by phones."""
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


def _bytes(rows: list[dict[str, Any]]) -> dict[str, tuple[Point, ...]]:
    began = float(rows[0].get("time", 0)) if rows else 0.0
    seconds = [float(row.get("time", began)) - began for row in rows]
    purposes = sorted({purpose for row in rows for purpose in row.get("bytes", {})})
    curves = {
        purpose: _thinned(
            [
                (x, float(row.get("bytes", {}).get(purpose, 0)) / 1e6)
                for x, row in zip(seconds, rows, strict=True)
            ]
        )
        for purpose in purposes
    }
    return {purpose: curve for purpose, curve in curves.items() if curve and curve[-1][1] > 0}


def _pieces(path: Path) -> tuple[Pieces, tuple[float, ...]]:
    pieces = json.loads(_text(path) or "{}").get("pieces", [])
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


def _traffic(path: Path) -> tuple[DeviceTraffic, ...]:
    """What the relay counted: `up` is from a device, `down` to it."""
    if not path.exists():
        return ()
    query = "select device, direction, sum(bytes) from traffic group by device, direction"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        count = {(str(device), way): int(total) for device, way, total in db.execute(query)}
    devices = sorted({device for device, _ in count})
    return tuple(DeviceTraffic(d, count.get((d, "up"), 0), count.get((d, "down"), 0)) for d in devices)


def _thinned(points: list[Point]) -> tuple[Point, ...]:
    """At most MAX_POINTS of the finite points, the last among them."""
    points = [point for point in points if all(map(isfinite, point))]
    step = -(-len(points) // MAX_POINTS) or 1
    return tuple(points[::-1][::step][::-1])
