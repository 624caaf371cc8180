"""A drawing of measurements: joules of a sample by device and program, computing and radio apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crowdlearn_device.platform.files import replacing


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw the rows that tell joules into a file, whose ending is the format; each bar names its provenance.

    Rows of one program differ by wire type.
    """
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.get("joules") is not None and not row.get("stage")]
    figure = Figure(figsize=(9, 1.5 + 0.32 * max(len(measured), 1)), layout="constrained")
    axes = figure.subplots()
    names = [
        f"{row['device']}: {row['program']}{', ' + row['wire'] if row['wire'] else ''} ({row['provenance']})"
        for row in measured
    ]
    compute = [1e3 * (row.get("compute joules") or 0.0) for row in measured]
    radio = [1e3 * (row.get("radio joules") or 0.0) for row in measured]
    places = list(range(len(measured)))
    axes.barh(places, compute, label="computing")
    axes.barh(places, radio, left=compute, label="radio")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlabel("millijoules of a sample, beyond idle")
    if measured:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no device reported its energy", ha="center", transform=axes.transAxes)
    with replacing(file) as written:
        figure.savefig(written, format=file.suffix[1:])
