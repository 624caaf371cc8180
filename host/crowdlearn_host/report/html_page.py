"""An HTML page as text, without scripts or anything to fetch: its style sheet, its frame and its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .charts import COLOURS

COLOURED = [
    f"hsl({(210 + 137.508 * n) % 360:.0f} {(62, 48)[n // 8 % 2]}% {(46, 62, 36)[n // 8]}%)"
    for n in range(COLOURS)
]
"""Hues by the golden angle: neighbours differ much, and none of the first 24 is another."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --faint: #626e7e; --paper: #fff; --line: #d9dee5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --faint: #98a4b3; --paper: #14181e; --line: #313a46; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1400px; margin: 0 auto; padding: 2rem 1.2rem; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin: 0 0 .6rem; }
.about { margin: .2rem 0 0; color: var(--faint); overflow-wrap: anywhere; }
.grid-of { display: grid; gap: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
section { border-top: 1px solid var(--line); padding-top: .8rem; min-width: 0; overflow-x: auto; }
section.wide { grid-column: 1 / -1; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2.4rem; margin: 1rem 0 2rem; }
.facts b { display: block; font-size: 1.35rem; } .facts span, .none, .legend { color: var(--faint); }
svg { width: 100%; height: auto; } .label { font-size: 11px; fill: var(--faint); }
.end { text-anchor: end; } .middle { text-anchor: middle; } .grid { stroke: var(--line); }
.line { fill: none !important; stroke-width: 1.8; stroke-linejoin: round; }
.over { stroke-dasharray: 7 5; }
.faint { opacity: .3; stroke-width: 1; }
rect { stroke: var(--paper) !important; stroke-width: .8; }
.legend { font-size: .8rem; margin: .2rem 0; line-height: 1.4; }
.legend span { margin-right: .9rem; white-space: nowrap; display: inline-block; }
.legend i { display: inline-block; width: .75em; height: .75em; margin-right: .35em; border-radius: 2px; }
table { border-collapse: collapse; font-size: .85rem; width: 100%; }
td, th { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: break-word; }
td:first-child, th { white-space: nowrap; } .number { text-align: right; white-space: nowrap; }
pre { font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
""" + "".join(
    f".c{n} {{ fill: {colour}; stroke: {colour}; }} i.c{n} {{ background: {colour}; }}\n"
    for n, colour in enumerate(COLOURED)
)


def document(title: str, head: str, body: str) -> str:
    """Return a whole page of HTML with this title, as text; `head` and `body` are HTML."""
    name = escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}: crowdlearn</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f'<body><h1>{name}</h1>{head}<div class="grid-of">{body}</div></body></html>'
    )


def is_page(text: str) -> bool:
    """Return whether it is such a page, of whatever run."""
    return text.startswith("<!doctype html>") and ": crowdlearn</title>" in text.partition("<style>")[0]


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False) -> str:
    """Return an HTML table; with `numbers` all columns but the first are set to the right."""
    style = ' class="number"' if numbers else ""
    top = "".join(f"<th{style if n else ''}>{escape(name)}</th>" for n, name in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(f"<td{style if n else ''}>{escape(str(cell))}</td>" for n, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{top}</tr>{body}</table>"
