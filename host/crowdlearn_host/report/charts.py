"""Charts as SVG text, in the page's colours; every text in them is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import ceil, floor, isfinite, log10

Point = tuple[float, float]

MAX_POINTS = 2000
"""Points of a curve that the page keeps; of a longer run every so-manieth."""
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 12, 34
MAX_BARS = 40
COLOURS = 24
"""The page's style sheet has classes c0 to c23."""
WIDE = 12
"""A network of more layers is drawn over the page's whole width."""
LABEL = 52.0
"""Room for the name of a layer; where columns are narrower, some go without."""


def curves(
    lines: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    *,
    from_zero: bool = False,
    faint: Sequence[str] = (),
) -> str:
    """Return one line for each entry, over one pair of axes; those named in `faint` stand back, and one that
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
        style = colour(number) + " faint" * (name in faint) + " over" * hides
        parts.append(f'<polyline class="line {style}" points="{" ".join(map(place, line))}"/>')
        if len(line) < 60:
            dots = (place(point).split(",") for point in line)
            parts += [f'<circle class="dot {style}" cx="{cx}" cy="{cy}" r="2.5"/>' for cx, cy in dots]
    legend = _legend(list(lines)) if len(lines) > 1 else ""
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>{legend}'


def scatter(points: Sequence[Point], x: str, y: str) -> str:
    """Return points over one pair of axes, and the line on which both numbers are equal."""
    numbers = [number for point in points for number in point]
    low, high = min(numbers), max(numbers)
    low, high = (low - 0.5, high + 0.5) if high == low else (low, high)

    def place(point: Point) -> Point:
        across = LEFT + (point[0] - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (point[1] - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    (x1, y1), (x2, y2) = place((low, low)), place((high, high))
    drawn = [
        _axes((low, high), (low, high), x, y),
        f'<line class="grid" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>',
        *(f'<circle class="dot c0" cx="{cx:.1f}" cy="{cy:.1f}" r="2"/>' for cx, cy in map(place, points)),
    ]
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>'


def bars(
    rows: Mapping[str, Sequence[float]],
    parts: Sequence[str],
    unit: str,
    *,
    in_order: bool = False,
    by_row: bool = False,
) -> str:
    """Return a horizontal bar for each row, stacked of `parts`, the longest first unless they stay
    `in_order`. With `by_row` each row has a colour of its own, else each part.
    """
    if not rows:
        return '<p class="none">nothing was recorded</p>'
    ranked = rows.items() if in_order else sorted(rows.items(), key=lambda row: -sum(row[1]))
    shown = dict(list(ranked)[:MAX_BARS])
    longest = max(sum(values) for values in rows.values()) or 1.0
    step, name, room = 22, 150, 56 + 6 * len(unit)
    drawn = []
    for place, (label, values) in enumerate(shown.items()):
        top, across = place * step + 4, float(name)
        drawn.append(f'<text class="label end" x="{name - 8}" y="{top + 12}">{escape(label[:22])}</text>')
        for number, value in enumerate(values):
            width = value / longest * (WIDTH - name - room)
            drawn.append(
                f'<rect class="{colour(place if by_row else number)}" x="{across:.1f}" y="{top}" '
                f'width="{width:.1f}" height="15"/>'
            )
            across += width
        drawn.append(
            f'<text class="label" x="{across + 6:.1f}" y="{top + 12}">{_short(sum(values))}{unit}</text>'
        )
    legend = _legend(parts) if len(parts) > 1 else ""
    if len(rows) > MAX_BARS:
        legend += f'<p class="none">{MAX_BARS} of {len(rows)}</p>'
    return f'<svg viewBox="0 0 {WIDTH} {len(shown) * step + 8}" role="img">{"".join(drawn)}</svg>{legend}'


def slices(pieces: Sequence[Sequence[tuple[int, int]]]) -> str:
    """Return the network as columns, one a layer with its count of neurons, cut where the plan cuts them."""
    if not pieces:
        return '<p class="none">this run kept no plan</p>'
    layers = len(pieces[0])
    width, left, right = (WIDTH if layers <= WIDE else 2 * WIDTH), 30, 30
    counts = [max(piece[layer][1] for piece in pieces) for layer in range(layers)]
    tallest = max(*counts, 1)
    pitch = (width - left - right) / layers
    column = min(46.0, 0.78 * pitch)
    room = HEIGHT - TOP - BOTTOM
    drawn = []
    for layer, count in enumerate(counts):
        # The square root keeps a small layer visible beside a large one.
        height = max(24.0, room * (count / tallest) ** 0.5)
        middle, top = left + (layer + 0.5) * pitch, TOP + (room - height) / 2
        for number, piece in enumerate(pieces):
            start, stop = piece[layer]
            if stop > start:
                y, tall = top + start / count * height, (stop - start) / count * height
                drawn.append(
                    f'<rect class="{colour(number)}" x="{middle - column / 2:.1f}" y="{y:.1f}" '
                    f'width="{column:.1f}" height="{tall:.1f}"><title>layer {layer}, piece {number}: '
                    f"neurons {start} to {stop - 1}</title></rect>"
                )
    for layer in _labelled(layers, pitch):
        name = {0: "input", layers - 1: "output"}.get(layer, f"hidden {layer}")
        x = left + (layer + 0.5) * pitch
        for text, y in ((name, HEIGHT - 16), (str(counts[layer]), HEIGHT - 3)):
            drawn.append(f'<text class="label middle" x="{x:.1f}" y="{y}">{text}</text>')
    names = [f"piece {n}" + (" (dominator)" if n == 0 else "") for n in range(len(pieces))]
    if len(pieces) > 8:
        names = ["piece 0 (dominator)", *(str(n) for n in range(1, len(pieces)))]
    return f'<svg viewBox="0 0 {width} {HEIGHT}" role="img">{"".join(drawn)}</svg>{_legend(names)}'


def colour(number: int) -> str:
    """Return the class of the style sheet for the thing with this number."""
    return f"c{number % COLOURS}"


def _labelled(layers: int, pitch: float) -> list[int]:
    """Return the layers whose names have room: the first, the last, and every so-manieth between."""
    step = max(1, ceil(LABEL / pitch))
    between = [layer for layer in range(step, layers - 1, step) if layers - 1 - layer >= step]
    return [0, *between, layers - 1] if layers > 1 else [0]


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
    """Return some four round values in [low, high]."""
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
    marks = (f'<span><i class="{colour(n)}"></i>{escape(name)}</span>' for n, name in enumerate(names))
    return f'<p class="legend">{"".join(marks)}</p>'


def thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """Return at most MAX_POINTS of the finite points, the last among them."""
    points = [point for point in points if all(map(isfinite, point))]
    step = -(-len(points) // MAX_POINTS) or 1
    return tuple(points[::-1][::step][::-1])
