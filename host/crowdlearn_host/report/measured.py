"""Evaluations: a curve for each metric, and the predictions of the last one, by class or number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from .charts import Point, curves, scatter

SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Measured:
    """The metrics of a run's evaluations. `curves` has, for each metric, points of epoch (from 1) and value
    by split. `confusion` counts samples by their class and the one that the model predicts; `pairs` are some
    targets and predictions. Both are of the last evaluation, and empty if it has none.
    """

    curves: Mapping[str, Mapping[str, tuple[Point, ...]]]
    confusion: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[Point, ...] = ()


def measured(rows: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> Measured:
    """Return what the rows of a simulation, or the `evaluated` events of phones, tell."""
    found: dict[str, dict[str, dict[float, float]]] = {}

    def note(epoch: Any, split: str, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float) and isfinite(value):
                found.setdefault(name, {}).setdefault(split, {})[float(epoch) + 1] = float(value)

    for row in rows:
        if "round" in row:
            fields = {"accuracy": row.get("accuracy"), "loss": row.get("test_loss")}
            note(row.get("epoch", 0), "test", fields)
            note(row.get("epoch", 0), "validation", row.get("validation") or {})
    last: Mapping[str, Any] = {}
    for event in events:
        if event.get("event") != "evaluated" or "epoch" not in event:
            continue
        last = event
        note(event["epoch"], "test", {**(event.get("metrics") or {}), "loss": event.get("test_loss")})
        own = {**(event.get("validation_metrics") or {}), "loss": event.get("validation_loss")}
        note(event["epoch"], "validation", own)
    lines = {
        name: {split: tuple(sorted(of[split].items())) for split in SPLITS if split in of}
        for name, of in sorted(found.items())
    }
    confusion = tuple(tuple(int(count) for count in row) for row in last.get("confusion") or ())
    pairs = tuple((float(x), float(y)) for x, y in last.get("pairs") or ())
    return Measured(lines, confusion, pairs)


def sections(of: Measured) -> list[tuple[str, str, str]]:
    """Return title, HTML and style of the sections of a page that show it."""
    parts = []
    for name, lines in of.curves.items():
        if any(len(line) > 1 for line in lines.values()):
            parts.append((f"{name.replace('_', ' ')} after each epoch", curves(lines, "epochs", ""), ""))
    if of.confusion:
        parts.append(("Confusion, at the last evaluation", _confusion(of.confusion), ""))
    if of.pairs:
        parts.append(
            ("Predictions and targets, at the last evaluation", scatter(of.pairs, "target", "prediction"), "")
        )
    return parts


def _confusion(counts: Sequence[Sequence[int]]) -> str:
    """Return a table, one row a class and one column a predicted class; the darker, the more of the row."""
    head = "".join(f"<th>{number}</th>" for number in range(len(counts)))
    rows = []
    for number, row in enumerate(counts):
        shares = [value / max(sum(row), 1) for value in row]
        cells = (
            f'<td style="background:rgba(90,140,200,{share:.2f})">{value}</td>'
            for value, share in zip(row, shares, strict=True)
        )
        rows.append(f"<tr><th>{number}</th>{''.join(cells)}</tr>")
    return (
        f'<table class="numbers"><tr><th>class</th>{head}</tr>{"".join(rows)}</table>'
        '<p class="none">a row for each class, a column for each predicted class</p>'
    )
