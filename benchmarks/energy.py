"""python -m benchmarks.energy: time, MACs, bytes and joules of training steps, each with where it comes from.

It measures as `crowdlearn measure` does: on this computer, and on a virtual phone of every kind, whose time
is emulated and whose energy is modelled by its maker's power profile. The joules for a MAC that come of it
are compared with published measurements of phones.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from crowdlearn import energy, phones
from crowdlearn.testing import cache_home
from crowdlearn_device.energy.readings import Provenance
from rich.console import Console

from .report import machine, write_rows

MODEL = "mlp:784-400-200-100-10"
PIECES = (3,)
BATCH = 32


def main(
    seconds: Annotated[float, typer.Option(min=10, help="Seconds for all rounds together.")] = 300.0,
    quick: Annotated[bool, typer.Option(help="Two rounds of short windows.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Measure on this computer, and on a virtual phone of every kind."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the executor's libraries load
    import torch

    torch.set_num_threads(1)
    console = Console(width=160)
    console.print(machine())
    programs = energy.make_programs(MODEL, "", PIECES, BATCH, cache_home() / "programs")
    with _phones() as found:
        measured = asyncio.run(energy.measure(found, programs, _told(console), seconds=seconds, quick=quick))
    rows = [_row(row) for row in measured.rows()]
    console.print(energy.steps(rows, f"{MODEL}: steps of {BATCH} samples; MACs, bytes, joules of one sample"))
    rows += [row for figures in measured.figures for row in _compared(figures)]
    console.print(energy.comparisons(rows))
    for source in energy.sources(rows):
        console.print(f"source: {source}", soft_wrap=True)
    write_rows(json_file, rows)


@contextmanager
def _phones() -> Iterator[list[energy.Found]]:
    """A virtual phone of every profile, for the length of a block."""
    from contextlib import ExitStack

    with ExitStack() as running:
        found = []
        for profile in phones.PROFILES:
            home = Path(running.enter_context(tempfile.TemporaryDirectory()))
            (info,) = running.enter_context(phones.running(1, home, profile=profile))
            found.append(energy.Found(info.serial, "virtual"))
        yield found


def _told(console: Console) -> Any:
    def told(what: str, number: int, of: int) -> None:
        if console.is_terminal or number % 10 == 1:
            console.print(f"{what} ({number} of {of})", highlight=False)

    return told


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the phone's kind for its name, and where the model of its energy comes from."""
    profile = next(
        (p for p in phones.PROFILES.values() if f"{p.manufacturer} {p.model}" == row["model"]), None
    )
    if profile is None:
        return row
    return {
        **row,
        "device": f"virtual {profile.key}",
        "source": f"{row['source']}: {profile.power.source}; {phones.RADIO_SOURCE}",
    }


def _compared(figures: energy.Figures) -> list[dict[str, Any]]:
    """Rows of published measurements against a device's joules for a MAC."""
    each = figures.constants
    if each.joules_per_mac is None:
        return []
    shown = _row({"device": figures.subject.name, "model": figures.subject.model, "source": each.source})
    return [
        {
            **shown,
            "program": published.what,
            "macs": published.macs,
            "ms": None,
            "gflops": None,
            "bytes": 0,
            "macs source": published.source,
            **energy.deviation(published, each.joules_per_mac),
            "provenance": str(Provenance.MODELLED),
        }
        for published in energy.PUBLISHED
    ]


if __name__ == "__main__":
    typer.run(main)
