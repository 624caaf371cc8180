"""A plan as a picture: layers left to right, each a column of coloured slices, ribbons where sums cross."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from colorsys import hls_to_rgb
from dataclasses import dataclass
from xml.sax.saxutils import escape

from crowdlearn_export.graph.neuron_graph import NeuronGraph

from crowdlearn_host.planner.problem.bundles import PAIRED, bundles

from .plan import PiecePlan, Plan

INK, PALE, PAPER, DOMINATOR = "#1b2430", "#6b7683", "#ffffff", "#394656"
TOP, HEIGHT, MARGIN, LEGEND = 118.0, 420.0, 36.0, 250.0
MIN_SLICE = 3.0
CHARACTER = 6.6
"""The width of a letter of a caption, at most on average."""


@dataclass(frozen=True)
class _Slice:
    """One piece's neurons in one column."""

    piece: int
    neurons: int
    y: float
    height: float


def draw_plan(plan: Plan, graph: NeuronGraph) -> str:
    """Return the picture as SVG. Bundles are columns; a slice's height is its share of the neurons."""
    members = bundles(graph)
    colours = palette(len(plan.pieces))
    pitch = 150.0 if len(members) <= 8 else max(58.0, 1180.0 / len(members))
    width_of_column = min(44.0, 0.42 * pitch)
    width = MARGIN + pitch * (len(members) - 1) + width_of_column + 60 + LEGEND + MARGIN
    rows = (len(plan.pieces) + 1) // 2 if len(plan.pieces) > 18 else len(plan.pieces)
    height = max(TOP + HEIGHT + 74, TOP + 26 * rows + 60)
    columns = [_slices(plan.pieces, layers[0]) for layers in members]
    x = [MARGIN + 10 + pitch * c for c in range(len(members))]
    column_of = {layer: c for c, layers in enumerate(members) for layer in layers}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, Arial, sans-serif">',
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        _text(MARGIN, 38, f"{graph.name} in {len(plan.pieces)} pieces", 20, INK, weight="600"),
        _text(MARGIN, 62, _subtitle(plan), 13, PALE),
    ]
    for edge in graph.edges:
        if edge.kind not in PAIRED:
            source, target = column_of[edge.source], column_of[edge.target]
            ends = columns[source], columns[target]
            if target - source == 1:
                parts.extend(_ribbons(*ends, x[source] + width_of_column, x[target], colours))
            else:
                parts.extend(_arcs(*ends, x[source], x[target], width_of_column, colours))
    for c, layers in enumerate(members):
        parts.extend(_column(columns[c], x[c], width_of_column, colours))
        parts.extend(_caption(graph, layers, x[c] + width_of_column / 2, int(pitch / CHARACTER)))
    parts.extend(_legend(plan, colours, width - LEGEND - MARGIN + 20))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def is_drawing(text: str) -> bool:
    """Return whether it is such a picture, of whatever plan."""
    return text.startswith("<svg ") and "<title>piece 0: " in text


def palette(pieces: int) -> list[str]:
    """Return the dominator in slate, followers round the colour circle, neighbours unlike in lightness."""
    colours = [DOMINATOR]
    for k in range(pieces - 1):
        hue = (0.58 + k / max(pieces - 1, 1)) % 1.0
        red, green, blue = hls_to_rgb(hue, (0.52, 0.66, 0.42)[k % 3], (0.55, 0.5, 0.48)[k % 3])
        colours.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return colours


def _subtitle(plan: Plan) -> str:
    parts = [] if plan.traffic is None else [f"{_size(plan.traffic.total)} relayed per epoch"]
    if plan.certificate is not None:
        above = f"at most {100 * plan.certificate.gap:.1f} % above the optimum"
        proof = "proven optimal" if plan.certificate.optimal else above
        parts.append(proof)
    if len(plan.groups) > 1:
        parts.append(f"{len(plan.groups)} groups")
    parts.append("ribbons are sums that cross to another device; between slices of one colour nothing does")
    return " · ".join(parts)


def _slices(pieces: Sequence[PiecePlan], layer: int) -> list[_Slice]:
    owned = [(k, p.neurons[layer][1] - p.neurons[layer][0]) for k, p in enumerate(pieces)]
    owned = [(k, n) for k, n in owned if n]
    gap = 2.0 if len(owned) > 1 else 0.0
    room = HEIGHT - gap * (len(owned) - 1) - MIN_SLICE * len(owned)
    total = sum(n for _, n in owned)
    slices, y = [], TOP
    for piece, neurons in owned:
        height = MIN_SLICE + room * neurons / total
        slices.append(_Slice(piece, neurons, y, height))
        y += height + gap
    return slices


def _ribbons(
    sources: Sequence[_Slice], targets: Sequence[_Slice], left: float, right: float, colours: Sequence[str]
) -> Iterator[str]:
    """Yield one ribbon per source slice and target slice of another piece: a message with the target's
    sums.
    """
    crossing = sum(s.piece != t.piece for s in sources for t in targets)
    opacity = max(0.08, min(0.3, 6 / max(crossing, 1)))
    bend = (right - left) / 2
    whole = sum(s.height for s in sources)
    before = 0.0
    for s in sources:
        share = s.height / len(targets)
        for i, t in enumerate(targets):
            a, b = s.y + share * i, s.y + share * (i + 1)
            c = t.y + t.height * before / whole
            d = t.y + t.height * (before + s.height) / whole
            if s.piece != t.piece:
                yield (
                    f'<path d="M{left:.1f},{a:.1f} C{left + bend:.1f},{a:.1f} {right - bend:.1f},{c:.1f} '
                    f"{right:.1f},{c:.1f} L{right:.1f},{d:.1f} C{right - bend:.1f},{d:.1f} "
                    f'{left + bend:.1f},{b:.1f} {left:.1f},{b:.1f} Z" '
                    f'fill="{colours[s.piece]}" fill-opacity="{opacity:.2f}"/>'
                )
        before += s.height


def _arcs(
    sources: Sequence[_Slice],
    targets: Sequence[_Slice],
    x: float,
    end: float,
    width: float,
    colours: Sequence[str],
) -> Iterator[str]:
    """Yield links that do not lead to the next column, above the columns: one arc per source slice that
    sends.
    """
    rise = min(46.0, 14 + abs(end - x) / 9)
    for i, s in enumerate(sources):
        if any(t.piece != s.piece for t in targets):
            a = x + width * (i + 1) / (len(sources) + 1)
            b = end + width * (i + 1) / (len(sources) + 1) + (width / 3 if end == x else 0)
            top = TOP - 3
            yield (
                f'<path d="M{a:.1f},{top} C{a:.1f},{top - rise:.1f} {b:.1f},{top - rise:.1f} {b:.1f},{top}" '
                f'fill="none" stroke="{colours[s.piece]}" stroke-opacity="0.7" stroke-width="1.6"/>'
            )


def _column(slices: Sequence[_Slice], x: float, width: float, colours: Sequence[str]) -> Iterator[str]:
    for s in slices:
        yield (
            f'<rect x="{x:.1f}" y="{s.y:.1f}" width="{width:.1f}" height="{s.height:.1f}" rx="2.5" '
            f'fill="{colours[s.piece]}"><title>piece {s.piece}: {s.neurons} neurons</title></rect>'
        )
        if s.height >= 15 and width >= 24:
            yield _text(x + width / 2, s.y + s.height / 2 + 4, str(s.neurons), 11, PAPER, anchor="middle")


def _caption(graph: NeuronGraph, layers: Sequence[int], x: float, limit: int) -> Iterator[str]:
    first = graph.layers[layers[0]]
    last = layers[-1] == len(graph.layers) - 1
    name = "input" if layers[0] == 0 else "output" if last else first.name
    name = f"layer {name}" if name.isdecimal() and limit > 10 else name
    name = name if len(name) <= limit else "…" + name[-limit + 1 :]
    yield _text(x, TOP + HEIGHT + 20, str(first.neurons), 12, INK, anchor="middle", weight="600")
    yield _text(x, TOP + HEIGHT + 35, name, 11, PALE, anchor="middle")


def _legend(plan: Plan, colours: Sequence[str], x: float) -> Iterator[str]:
    columns = 2 if len(plan.pieces) > 18 else 1
    rows = -(-len(plan.pieces) // columns)
    for k, piece in enumerate(plan.pieces):
        left, y = x + 122 * (k // rows), TOP + 26 * (k % rows)
        yield f'<rect x="{left:.1f}" y="{y:.1f}" width="14" height="14" rx="2.5" fill="{colours[k]}"/>'
        name = "dominator" if k == 0 else f"{k}  {piece.seat}".rstrip()
        if columns == 2 and len(name) > 13:
            name = name[:12] + "…"
        yield _text(left + 22, y + 11, name, 12, INK)
        if columns == 1 and piece.budgets:
            fullest = max(piece.budgets, key=lambda budget: budget.share)
            yield _text(
                left + 200, y + 11, f"{100 * fullest.share:.0f} % {fullest.name}", 11, PALE, anchor="end"
            )


def _text(
    x: float, y: float, words: str, size: int, colour: str, *, anchor: str = "start", weight: str = "400"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
