"""The report of a run: the sections of its page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from itertools import accumulate
from typing import Any

from .charts import WIDE, bars, curves, slices
from .html_page import document, table
from .measured import sections as measured_sections
from .run import Run

TROUBLES = (
    "recovering",
    "left",
    "paused",
    "deferred",
    "skipped",
    "refused",
    "declined",
    "unreachable",
    "relay_ended",
    "relay_failed",
    "sum_begun_anew",
    "sum_lost",
    "sum_contradicted",
    "norm_refused",
    "suspicious",
    "not_summed",
    "not_waited_for",
    "budget_spent",
    "unrevealed",
    "throttled",
    "cooled",
    "stopped",
)
"""Events that a reader looks for first: what went wrong, or got hot, and how it went on."""
MAX_ROWS = 300
MEANS = 50
"""Points that a running mean leaves of a curve, at least: each is over the curve's length / MEANS."""


def page(run: Run) -> str:
    """Return the run as HTML. What came from devices is escaped; a chart without data says so. A simulated
    run has no devices of its own to tell of.
    """
    head = f'<p class="about">{about(run)}</p><div class="facts">{facts(run)}</div>'
    return document(run.name, head, "".join(sections(run)))


def sections(run: Run) -> Iterator[str]:
    """Yield the sections of the page."""
    troubles = [event for event in run.events if event.get("event") in TROUBLES]
    wide = "wide" if run.pieces and len(run.pieces[0]) > WIDE else ""
    lines: list[tuple[str, str, str]] = [
        ("Test accuracy", curves({"accuracy": run.accuracy}, "samples", "%"), ""),
        ("Training loss", _loss(run), ""),
        *([("Epsilon spent", curves(run.epsilon, "samples", ""), "")] if run.epsilon else []),
        ("Bytes by purpose over time", _bytes(run), ""),
        ("Bytes by purpose", _ledger(run), ""),
        ("Slices on the network", slices(run.pieces), wide),
        ("Load of each piece for a sample", _load(run), ""),
    ]
    if run.compared:
        lines.append(("Bytes planned and measured", _compared(run), ""))
    if run.epochs:
        lines.append(("Epochs", _epochs(run), ""))
    if run.classes:
        lines.append(("Classes, at the last evaluation", _classes(run), ""))
    lines += measured_sections(run.measured)
    if not run.simulated:
        if run.joules:
            lines.append(("Energy of each device, modelled", _energy(run), ""))
        lines += [("Bytes of each device", _devices(run), ""), ("Passes as dominator", _passes(run), "")]
    lines += [
        ("Recoveries, refusals and heat", _events(troubles), ""),
        ("Environment", table(("", ""), sorted(map(_environment_row, run.environment.items()))), ""),
        ("Configuration", f"<pre>{escape(run.config)}</pre>", ""),
    ]
    for title, content, style in lines:
        yield f"<section{f' class={style}' if style else ''}><h2>{title}</h2>{content}</section>"


def _energy(run: Run) -> str:
    """Return joules of each device by purpose, with a table of pieces and sources."""
    purposes = list(dict.fromkeys(each.purpose for each in run.spent))
    by_device = {
        device: [
            sum(each.joules for each in run.spent if (each.device, each.purpose) == (device, purpose))
            for purpose in purposes
        ]
        for device in run.joules
    }
    rows = [
        (
            each.device,
            "" if each.piece < 0 else str(each.piece),
            each.purpose,
            f"{each.joules:.3g}",
            str(each.provenance),
            each.source,
        )
        for each in run.spent
    ]
    head = ("device", "piece", "purpose", "joules", "provenance", "source")
    return bars(by_device, purposes, " J") + table(head, rows)


def about(run: Run) -> str:
    """Return what kind of run it is, and when it was: for the line below the title."""
    kind = "simulated" if run.simulated else f"{len(run.traffic)} devices"
    parts = [run.model if run.model != run.name else "", kind, _when(run), f"folder {run.folder}"]
    return escape(" · ".join(part for part in parts if part))


def _when(run: Run) -> str:
    if not run.ended:
        return ""
    began, ended = (datetime.fromtimestamp(moment, UTC) for moment in (run.began, run.ended))
    until = f"{ended:%H:%M:%S}" if began.date() == ended.date() else f"{ended:%Y-%m-%d %H:%M:%S}"
    return f"{began:%Y-%m-%d %H:%M:%S} to {until} UTC"


def facts(run: Run) -> str:
    """Return the figures at the head of the page, as HTML."""
    return "".join(f"<div><b>{escape(value)}</b><span>{name}</span></div>" for name, value in figures(run))


def figures(run: Run) -> list[tuple[str, str]]:
    """Return what a figure is of, and the figure, both for people."""
    sent = sum(each.sent for each in run.ledger)
    received = sum(each.received or 0 for each in run.ledger)
    last = run.epochs[-1].number + 1 if run.epochs else 0
    lines = [
        ("test accuracy", f"{run.accuracy[-1][1]:.2f} %" if run.accuracy else "none"),
        ("test loss", "none" if run.test_loss is None else f"{run.test_loss:.4f}"),
        (
            f"training loss, mean of epoch {last}",
            "none" if run.training_loss is None else f"{run.training_loss:.4f}",
        ),
        ("samples", f"{run.samples:,}"),
        ("samples/s", "none" if run.samples_per_second is None else f"{run.samples_per_second:,.0f}"),
        ("duration", duration(run.ended - run.began)),
        ("MB modelled" if run.simulated else "MB sent by devices", f"{sent / 1e6:,.1f}"),
    ]
    if not run.simulated:
        lines.append(("MB received by devices", f"{received / 1e6:,.1f}"))
    private = run.privacy
    of = (("a sample", private.sample), ("a group", private.group), ("a label", private.label))
    lines += [(f"epsilon of {name}", f"{epsilon:.2f}") for name, epsilon in of if epsilon is not None]
    lines += [
        ("pieces", str(len(run.pieces) or "none")),
        ("recoveries", str(sum(event.get("event") == "recovering" for event in run.events))),
    ]
    lines += [("left out", words) for words in run.damaged]
    if run.left_out:
        lines.append(("values that are not finite, left out", str(run.left_out)))
    return lines


def duration(seconds: float) -> str:
    """Write hours, minutes and seconds, as in 1 h 02 min or 3 min 04 s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"


def _environment_row(item: tuple[str, object]) -> tuple[str, str]:
    """Return a row of the environment; of hashes their first digits."""
    name, value = item
    if isinstance(value, list):
        return name, ", ".join(text if len(text := str(each)) < 24 else f"{text[:12]}…" for each in value)
    return name, str(value)


def _loss(run: Run) -> str:
    """Return the loss of every record; before it the means of epochs or, if there is one epoch, a running
    mean.
    """
    if len(run.mean_loss) > 1:
        lines = {"mean of each epoch": run.mean_loss, "each record": run.loss}
        return curves(lines, "samples", "loss", faint=("each record",))
    many = len(run.loss) // MEANS
    if many < 2:
        return curves({"loss": run.loss}, "samples", "loss")
    return curves({f"mean of {many}": _running(run), "loss": run.loss}, "samples", "loss", faint=("loss",))


def _running(run: Run) -> list[tuple[float, float]]:
    """Return samples, and the mean loss over the last records, as many as leave MEANS points of the curve."""
    many = max(len(run.loss) // MEANS, 1)
    sums = [0.0, *accumulate(loss for _, loss in run.loss)]
    return [(run.loss[at - 1][0], (sums[at] - sums[at - many]) / many) for at in range(many, len(sums))]


def _bytes(run: Run) -> str:
    return curves(run.bytes, "seconds", "MB", from_zero=True)


def _ledger(run: Run) -> str:
    if not run.ledger:
        return '<p class="none">nothing was recorded</p>'
    if run.simulated:
        rows = [(each.purpose, _count(each.sent)) for each in run.ledger]
        rows.append(("in all", _count(sum(each.sent for each in run.ledger))))
        return table(("purpose", "bytes, modelled"), rows, numbers=True)
    both = [(each.purpose, _count(each.sent), _count(each.received or 0)) for each in run.ledger]
    sent, received = (sum(each.sent for each in run.ledger), sum(each.received or 0 for each in run.ledger))
    both.append(("in all", _count(sent), _count(received)))
    head = ("purpose", "bytes sent by devices", "bytes received by devices")
    return table(head, both, numbers=True)


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _compared(run: Run) -> str:
    rows = [
        (
            each.name,
            _count(each.planned),
            _count(each.measured),
            f"{each.measured / each.planned:.3f}" if each.planned else "",
        )
        for each in run.compared
    ]
    return table(("bytes of", "planned", "measured", "measured / planned"), rows, numbers=True)


def _epochs(run: Run) -> str:
    def shown(value: float | None, form: str, times: float = 1) -> str:
        return "" if value is None else format(times * value, form)

    rows = [
        (
            str(each.number + 1),
            shown(each.training_loss, ".4f"),
            shown(each.test_loss, ".4f"),
            shown(each.test_accuracy, ".2f", 100),
            shown(each.samples_per_second, ",.0f"),
        )
        for each in run.epochs[-MAX_ROWS:]
    ]
    head = ("epoch", "training loss (mean)", "test loss", "test accuracy %", "samples/s")
    return _some(table(head, rows, numbers=True), len(run.epochs))


def _classes(run: Run) -> str:
    rows = [
        (str(number), _count(samples), _count(correct), f"{100 * correct / samples:.2f}" if samples else "")
        for number, (samples, correct) in enumerate(run.classes[:MAX_ROWS])
    ]
    return _some(table(("class", "samples", "correct", "accuracy %"), rows, numbers=True), len(run.classes))


def _some(shown: str, rows: int) -> str:
    return shown + (f'<p class="none">{MAX_ROWS} of {rows}</p>' if rows > MAX_ROWS else "")


def _load(run: Run) -> str:
    """Return multiplications a sample, the dominator's own among them; of older runs how many neurons."""
    if run.loads:
        loads = {_piece(n): [load] for n, load in enumerate(run.loads)}
        return bars(loads, ("",), " multiplications", in_order=True, by_row=True)
    rows = {
        _piece(number): [float(sum(stop - start for start, stop in piece))]
        for number, piece in enumerate(run.pieces)
    }
    return bars(rows, ("",), " neurons", in_order=True, by_row=True)


def _piece(number: int) -> str:
    return f"piece {number}" + (" (dominator)" if number == 0 else "")


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
        text = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("time", "event"))
        moment = datetime.fromtimestamp(float(event.get("time", 0)), UTC)
        rows.append((f"{moment:%H:%M:%S}", event["event"], text))
    more = f'<p class="none">and {len(events) - MAX_ROWS} more</p>' if len(events) > MAX_ROWS else ""
    return table(("time (UTC)", "event", ""), rows) + more
