"""The page: one HTML text without scripts or anything that it would have to fetch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import accumulate
from typing import Any

from .charts import bars, curves, slices
from .run import Run

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --faint: #6a7686; --paper: #fff; --line: #d9dee5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --faint: #98a4b3; --paper: #14181e; --line: #313a46; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1400px; margin: 0 auto; padding: 2rem 1.2rem; }
h1 { margin: 0; font-size: 1.6rem; } h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
.grid-of { display: grid; gap: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
section { border-top: 1px solid var(--line); padding-top: .8rem; min-width: 0; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2.4rem; margin: 1rem 0 2rem; }
.facts b { display: block; font-size: 1.35rem; } .facts span, .none, .legend { color: var(--faint); }
svg { width: 100%; height: auto; } .label { font-size: 11px; fill: var(--faint); }
.end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: var(--line); }
.line { fill: none !important; stroke-width: 1.8; stroke-linejoin: round; }
.over { stroke-dasharray: 7 5; }
.faint { opacity: .3; stroke-width: 1; }
rect { stroke: var(--paper) !important; stroke-width: .8; }
.legend { font-size: .8rem; margin: .2rem 0; } .legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .75em; height: .75em; margin-right: .35em; border-radius: 2px; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: anywhere; }
pre { font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
""" + "".join(
    f".c{n} {{ fill: {colour}; stroke: {colour}; }} i.c{n} {{ background: {colour}; }}\n"
    for n, colour in enumerate(
        ("#2f6fde", "#e0782f", "#2e9e6b", "#b04ac4", "#c9a227", "#d14b5f", "#2aa5b8", "#7a828c")
    )
)
TELLING = (
    "recovering",
    "left",
    "paused",
    "deferred",
    "skipped",
    "refused",
    "declined",
    "unreachable",
    "stopped",
)
"""Events that a reader looks for first: what went wrong and how it went on."""
MAX_ROWS = 300
MEANS = 50
"""Points that a running mean leaves of a curve, at least: each is over the curve's length / MEANS."""


def page(run: Run) -> str:
    """The run as HTML. What came from devices is escaped; a chart without data says so. A simulated run has
    no devices of its own to tell of.
    """
    troubles = [event for event in run.events if event.get("event") in TELLING]
    sections = [
        ("Test accuracy", curves({"accuracy": run.accuracy}, "samples", "%")),
        ("Training loss", _loss(run)),
        ("Bytes by purpose over time", curves(run.bytes, "seconds", "MB", from_zero=True)),
        ("Slices on the network", slices(run.pieces)),
        ("Load of each piece", _load(run)),
        ("Recoveries and refusals", _events(troubles)),
        ("Environment", _table(("", ""), sorted(run.environment.items()))),
        ("Configuration", f"<pre>{escape(run.config)}</pre>"),
    ]
    if run.traffic or run.passes:
        sections += [("Bytes of each device", _devices(run)), ("Passes as dominator", _passes(run))]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    name = escape(run.name)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: crowdlearn</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f'<body><h1>{name}</h1><div class="facts">{_facts(run)}</div>'
        f'<div class="grid-of">{body}</div></body></html>'
    )


def is_page(text: str) -> bool:
    """Whether it is such a page, of whatever run."""
    return text.startswith("<!doctype html>") and ": crowdlearn</title>" in text.partition("<style>")[0]


def _facts(run: Run) -> str:
    facts = [
        ("test accuracy", f"{run.accuracy[-1][1]:.2f} %" if run.accuracy else "none"),
        ("training loss", f"{_means(run)[-1][1]:.4f}" if run.loss else "none"),
        ("samples", f"{run.loss[-1][0]:,.0f}" if run.loss else "0"),
        ("megabytes", f"{sum(curve[-1][1] for curve in run.bytes.values()):,.1f}"),
        ("pieces", str(len(run.pieces) or "none")),
        ("recoveries", str(sum(event.get("event") == "recovering" for event in run.events))),
    ]
    if run.left_out:
        facts.append(("values that are not finite, left out", str(run.left_out)))
    return "".join(f"<div><b>{escape(value)}</b><span>{name}</span></div>" for name, value in facts)


def _loss(run: Run) -> str:
    """The loss as recorded and, where there are many records, their running mean before it."""
    many = len(run.loss) // MEANS
    if many < 2:
        return curves({"loss": run.loss}, "samples", "loss")
    return curves({f"mean of {many}": _means(run), "loss": run.loss}, "samples", "loss", faint=("loss",))


def _means(run: Run) -> list[tuple[float, float]]:
    """Samples, and the mean loss over the last records, as many as leave MEANS points of the curve."""
    many = max(len(run.loss) // MEANS, 1)
    sums = [0.0, *accumulate(loss for _, loss in run.loss)]
    return [(run.loss[at - 1][0], (sums[at] - sums[at - many]) / many) for at in range(many, len(sums))]


def _load(run: Run) -> str:
    """Multiplications as planned, or how many neurons of each hidden layer where no planner counted them."""
    if run.loads:
        return bars({f"piece {n}": [load] for n, load in enumerate(run.loads)}, ("",), " multiplications")
    hidden = range(1, len(run.pieces[0]) - 1) if run.pieces else range(0)
    rows = {
        f"piece {number}": [float(piece[layer][1] - piece[layer][0]) for layer in hidden]
        for number, piece in enumerate(run.pieces)
    }
    return bars(rows, [f"hidden layer {layer}" for layer in hidden], " neurons")


def _devices(run: Run) -> str:
    rows = {each.device: [each.sent / 1e6, each.received / 1e6] for each in run.traffic}
    return bars(rows, ("sent", "received"), " MB")


def _passes(run: Run) -> str:
    return bars({device: [float(count)] for device, count in run.passes.items()}, ("passes",), "")


def _events(events: Sequence[dict[str, Any]]) -> str:
    if not events:
        return '<p class="none">none</p>'
    rows = []
    for event in events[:MAX_ROWS]:
        told = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("time", "event"))
        moment = datetime.fromtimestamp(float(event.get("time", 0)), UTC)
        rows.append((f"{moment:%H:%M:%S}", event["event"], told))
    more = f'<p class="none">and {len(events) - MAX_ROWS} more</p>' if len(events) > MAX_ROWS else ""
    return _table(("time (UTC)", "event", ""), rows) + more


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
