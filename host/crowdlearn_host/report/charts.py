"""Charts as SVG text, in the page's colours; every text in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import floor, log10

Point = tuple[float, float]

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 34
MAX_BARS = 40
COLOURS = 8
"""The page's style sheet has classes c0 to c7."""


def curves(
    lines: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    *,
    from_zero: bool = False,
    faint: Sequence[str] = (),
) -> str:
    """One line for each entry, over one pair of axes; those named in `faint` stand back, and one that
    would hide another is dashed.
    """
    points = [point for line in lines.values() for point in line]
    if not points:
        return '<p class="none">nothing was recorded</p>'
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    low, high = (0.0 if from_zero else min(ys)), max(ys)
    low, high = (low - 0.5, high + 0.5) if high == low else (low, high)
    left, right = min(0.0, *xs), max(xs) or 1.0

    def place(point: Point) -> str:
        across = LEFT + (point[0] - left) / (right - left or 1) * (WIDTH - LEFT - RIGHT)
        up = HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{up:.1f}"

    parts = [_axes((left, right), (low, high), x, y)]
    for number, (name, line) in enumerate(lines.items()):
        below = list(lines.values())[:number]
        hides = any(line and line == other for other in below)
        colour = f"c{number % COLOURS}" + " faint" * (name in faint) + " over" * hides
        parts.append(f'<polyline class="line {colour}" points="{" ".join(map(place, line))}"/>')
        if len(line) < 60:
            dots = (place(point).split(",") for point in line)
            parts += [f'<circle class="dot {colour}" cx="{cx}" cy="{cy}" r="2.5"/>' for cx, cy in dots]
    legend = _legend(list(lines)) if len(lines) > 1 else ""
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>{legend}'


def bars(rows: Mapping[str, Sequence[float]], parts: Sequence[str], unit: str) -> str:
    """A horizontal bar for each row, stacked of `parts`, the longest first."""
    if not rows:
        return '<p class="none">nothing was recorded</p>'
    shown = dict(sorted(rows.items(), key=lambda row: -sum(row[1]))[:MAX_BARS])
    longest = max(sum(values) for values in rows.values()) or 1.0
    step, name = 22, 150
    drawn = []
    for place, (label, values) in enumerate(shown.items()):
        top, across = place * step + 4, float(name)
        drawn.append(f'<text class="label end" x="{name - 8}" y="{top + 12}">{escape(label[:22])}</text>')
        for number, value in enumerate(values):
            width = value / longest * (WIDTH - name - 90)
            drawn.append(
                f'<rect class="c{number}" x="{across:.1f}" y="{top}" width="{width:.1f}" height="15"/>'
            )
            across += width
        drawn.append(
            f'<text class="label" x="{across + 6:.1f}" y="{top + 12}">{_short(sum(values))}{unit}</text>'
        )
    legend = _legend(parts) if len(parts) > 1 else ""
    if len(rows) > MAX_BARS:
        legend += f'<p class="none">the {MAX_BARS} longest of {len(rows)}</p>'
    return f'<svg viewBox="0 0 {WIDTH} {len(shown) * step + 8}" role="img">{"".join(drawn)}</svg>{legend}'


def slices(pieces: Sequence[Sequence[tuple[int, int]]]) -> str:
    """The network as columns, one a layer with its count of neurons, cut where the plan cuts them."""
    if not pieces:
        return '<p class="none">this run kept no plan</p>'
    layers = len(pieces[0])
    widths = [max(piece[layer][1] for piece in pieces) for layer in range(layers)]
    tallest = max(widths)
    column, gap = 46.0, (WIDTH - LEFT - RIGHT - layers * 46.0) / max(layers - 1, 1)
    room = HEIGHT - TOP - BOTTOM
    drawn = []
    for layer, width in enumerate(widths):
        # The square root keeps a small layer visible beside a large one.
        height = max(24.0, room * (width / tallest) ** 0.5)
        left, top = LEFT + layer * (column + gap), TOP + (room - height) / 2
        for number, piece in enumerate(pieces):
            start, stop = piece[layer]
            if stop > start:
                y, tall = top + start / width * height, (stop - start) / width * height
                drawn.append(
                    f'<rect class="c{number % COLOURS}" x="{left:.1f}" y="{y:.1f}" width="{column}" '
                    f'height="{tall:.1f}"><title>piece {number}: neurons {start} to {stop - 1}</title></rect>'
                )
        name = {0: "input", layers - 1: "output"}.get(layer, f"hidden {layer}")
        for told, y in ((name, HEIGHT - 16), (f"{width}", HEIGHT - 3)):
            drawn.append(f'<text class="label middle" x="{left + column / 2:.1f}" y="{y}">{told}</text>')
    names = [f"piece {n}" + (" (dominator)" if n == 0 else "") for n in range(len(pieces))]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>{_legend(names)}'


def _axes(x: Point, y: Point, x_name: str, y_name: str) -> str:
    drawn = []
    for value in _ticks(*y):
        up = HEIGHT - BOTTOM - (value - y[0]) / (y[1] - y[0]) * (HEIGHT - TOP - BOTTOM)
        drawn.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up:.1f}" y2="{up:.1f}"/>')
        drawn.append(f'<text class="label end" x="{LEFT - 6}" y="{up + 4:.1f}">{_short(value)}</text>')
    for value in _ticks(*x):
        across = LEFT + (value - x[0]) / (x[1] - x[0] or 1) * (WIDTH - LEFT - RIGHT)
        drawn.append(
            f'<text class="label middle" x="{across:.1f}" y="{HEIGHT - BOTTOM + 16}">{_short(value)}</text>'
        )
    drawn.append(f'<text class="label end" x="{WIDTH - RIGHT}" y="{HEIGHT - 4}">{escape(x_name)}</text>')
    drawn.append(f'<text class="label" x="4" y="{TOP}">{escape(y_name)}</text>')
    return "".join(drawn)


def _ticks(low: float, high: float) -> list[float]:
    """Some four round values in [low, high]."""
    if high <= low:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** floor(log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = -(-low // step)
    return [(first + i) * step for i in range(12) if (first + i) * step <= high + step * 1e-9]


def _short(value: float) -> str:
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def _legend(names: Sequence[str]) -> str:
    marks = (f'<span><i class="c{n % COLOURS}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{"".join(marks)}</p>'
