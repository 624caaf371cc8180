"""Tables of measurements for people: every number with its unit, every row with its provenance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

SHOWN = {
    "device": "device",
    "program": "program",
    "wire": "wire",
    "ms": "ms/step",
    "spread %": "±%",
    "gflops": "GFLOP/s",
    "peak %": "% of peak",
    "bytes": "bytes",
    "compute joules": "compute J",
    "radio joules": "radio J",
    "joules": "joules",
    "provenance": "energy is",
    "time provenance": "time is",
}
_WORDS = ("device", "program", "wire", "provenance", "time provenance")


def steps(rows: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Return the rows of whole steps; stages are in the JSON and CSV."""
    table = Table(title=title)
    for key, name in SHOWN.items():
        table.add_column(name, justify="left" if key in _WORDS else "right", no_wrap=key == "device")
    for row in rows:
        if not row.get("stage"):
            table.add_row(*(shown(row, key) for key in SHOWN))
    return table


def comparisons(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Compare published measurements of phones with what is modelled here."""
    table = Table(title="published measurements of phones, and the same work by joules for a MAC fitted here")
    for name in ("device", "work", "published J", "range", "J here", "deviation", "provenance"):
        table.add_column(name, justify="left" if name in ("device", "work") else "right")
    for row in rows:
        if "deviation %" in row:
            table.add_row(
                row["device"],
                row["program"],
                f"{row['published joules']:.3g}",
                f"{row['published least']:.3g} to {row['published most']:.3g}",
                f"{row['joules']:.3g}",
                f"{row['deviation %']:+.0f} %",
                f"{row['provenance']} against measured",
            )
    return table


def sources(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return every source of the rows, once."""
    keys = ("source", "time source", "macs source", "peak source", "published source")
    return list(dict.fromkeys(str(row[key]) for row in rows for key in keys if row.get(key)))


def shown(row: Mapping[str, Any], key: str) -> str:
    """Return a cell; what cannot be told, or trusted, is a dash."""
    value = row.get(key)
    if value is None:
        return "-"
    if key == "provenance" and row.get("joules") is None:
        return "no figure"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
