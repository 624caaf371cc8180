"""The bytes of a run: measured in its database, modelled by a simulation, and as the plan has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from crowdlearn_host.planner.plan import EpochBytes

from .charts import Point, thinned

PURPOSES = ("activation", "error", "shuffle", "sharing", "recovery", "model", "norm", "control")
"""The purposes of bytes, in the order of the page."""


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


def traffic_of(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a database: `device`, `direction` ("up": from the device), `purpose` and `bytes`."""
    keys = ("device", "direction", "purpose", "bytes")
    with _opened(path) as db:
        rows = db.execute(f"select {', '.join(keys)} from traffic").fetchall()
    return [
        dict(zip(keys, (str(device), way, str(purpose), int(count)), strict=True))
        for device, way, purpose, count in rows
    ]


def by_device(traffic: Sequence[Mapping[str, Any]]) -> tuple[DeviceTraffic, ...]:
    """Return the bytes of each device, by their names."""
    return tuple(
        DeviceTraffic(name, of["up"], of["down"]) for name, of in sorted(_totals(traffic, "device").items())
    )


def by_purpose(traffic: Sequence[Mapping[str, Any]]) -> tuple[PurposeTraffic, ...]:
    """Return the bytes of each purpose, in the order of PURPOSES; others come last."""
    totals = {purpose: {"up": 0, "down": 0} for purpose in PURPOSES} | _totals(traffic, "purpose")
    return tuple(PurposeTraffic(name, of["up"], of["down"]) for name, of in totals.items())


def _totals(traffic: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, int]]:
    totals: dict[str, dict[str, int]] = {}
    for row in traffic:
        totals.setdefault(row[key], {"up": 0, "down": 0})[row["direction"]] += row["bytes"]
    return totals


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
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


def bytes_over_time(
    rows: list[dict[str, Any]], began: float, ended: float, ledger: tuple[PurposeTraffic, ...]
) -> dict[str, tuple[Point, ...]]:
    """Return megabytes that devices sent, over seconds, for each purpose of the `ledger` that has any."""
    rows = [row for row in rows if "bytes" in row]  # one row a second has them
    seconds = [float(row.get("time", began)) - began for row in rows]
    curves = {}
    for of in ledger:
        curve = [
            (x, float(row["bytes"].get(of.purpose, 0)) / 1e6) for x, row in zip(seconds, rows, strict=True)
        ]
        if of.sent:
            curves[of.purpose] = (*thinned(curve), (ended - began, of.sent / 1e6))
    return curves


def modelled(rows: list[dict[str, Any]]) -> tuple[PurposeTraffic, ...]:
    """Return the bytes in the last row that has them: in a simulation they are modelled."""
    last: dict[str, Any] = next((row["bytes"] for row in reversed(rows) if "bytes" in row), {})
    return tuple(PurposeTraffic(purpose, int(last[purpose]), None) for purpose in sorted(last))


def compared(
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
