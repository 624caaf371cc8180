"""Two or more runs on one page: their curves over each other, their figures side by side, links to each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .charts import bars, curves
from .html_page import document, table
from .ledger import PURPOSES
from .page import figures
from .run import Run, parsed


def comparison(runs: Sequence[tuple[Run, Path]], target: Path) -> str:
    """Return the page that compares `runs`, each with its own report's file, for the file `target`."""
    names = _names([run for run, _ in runs])
    named = list(zip(names, (run for run, _ in runs), strict=True))
    links = "".join(
        f'<span><a href="{escape(_link(report, target))}">{escape(name)}</a></span> '
        for name, (_, report) in zip(names, runs, strict=True)
    )
    of_purposes = [purpose for purpose in PURPOSES if any(_sent(run).get(purpose) for run, _ in runs)]
    sent = {name: [_sent(run).get(purpose, 0) / 1e6 for purpose in of_purposes] for name, run in named}
    sections = [
        ("Test accuracy", curves({name: run.accuracy for name, run in named}, "samples", "%")),
        (
            "Training loss, mean of each epoch",
            curves({n: run.mean_loss for n, run in named}, "samples", "loss"),
        ),
        ("Bytes sent by devices", bars(sent, of_purposes, " MB", in_order=True)),
        ("Configuration, where it differs", _differences(named)),
        ("Figures", table(("", *names), _figures(named))),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return document(" and ".join(names), f'<p class="about">reports: {links}</p>', body)


def _names(runs: Sequence[Run]) -> list[str]:
    """Return what to call each run: its name or, if another has the same, its folder's."""
    names = [run.name for run in runs]
    return [run.name if names.count(run.name) == 1 else f"{run.name} ({run.folder})" for run in runs]


def _link(report: Path, target: Path) -> str:
    return quote(os.path.relpath(report.resolve(), target.resolve().parent))


def _sent(run: Run) -> dict[str, int]:
    return {each.purpose: each.sent for each in run.ledger}


def _figures(named: Sequence[tuple[str, Run]]) -> list[tuple[str, ...]]:
    found = [dict(figures(run)) for _, run in named]
    keys = dict.fromkeys(key for each in found for key in each)
    return [(key, *(each.get(key, "") for each in found)) for key in keys]


def _differences(named: Sequence[tuple[str, Run]]) -> str:
    flat = [dict(_flat(parsed(run.config))) for _, run in named]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [(key, *(each.get(key, "") for each in flat)) for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    if not differing:
        return '<p class="none">nowhere</p>'
    return table(("key", *(name for name, _ in named)), differing)


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Return the keys of nested tables, joined by dots, with their values as text."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", str(value)))
    return found
