"""Peak memory: what the planner foretells beside what processes of devices grow by.

A group trains over sockets, every device in a process of its own, for a few mini-batches with a snapshot
after each, and then hands its pieces on. Growth is the peak of the resident set less what was there once
everything was imported; the device's own samples are taken off.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, cast

import typer
from crowdlearn_device.optimizers.registry import OPTIMIZERS, Kind
from rich.console import Console
from rich.table import Table

from benchmarks.report import known, machine, write_rows

from .cases import CASES, LARGE
from .compare import compare

QUICK = ("dense",)


def main(
    networks: Annotated[
        list[str], typer.Option("--network", help=f"Which of {'; '.join([*CASES, *LARGE])}.")
    ] = [],  # noqa: B006  typer copies it
    quick: Annotated[bool, typer.Option(help="The dense network, unless others are named.")] = False,
    wires: Annotated[str, typer.Option(help="Which of float32, float16, int8.")] = "int8,float32",
    optimizers: Annotated[str, typer.Option(help="Which of sgd, adam, adamw.")] = "sgd",
    micro_batch: Annotated[int, typer.Option(help="Samples of a micro-batch, of 64.")] = 16,
    cache: Annotated[Path | None, typer.Option(help="Keep programs and footprints here.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows here.")] = None,
) -> None:
    """Print predicted and measured memory of every piece."""
    chosen = networks or [*(QUICK if quick else (*CASES, *LARGE))]
    known("--network", chosen, [*CASES, *LARGE])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in chosen:
            for wire, optimizer in product(wires.split(","), optimizers.split(",")):
                known("--optimizers", [optimizer], OPTIMIZERS)
                folder = Path(temporary) / f"{name}-{wire}-{optimizer}"
                kind = cast("Kind", optimizer)
                rows += compare(name, wire, folder, cache or Path(temporary), micro_batch, kind)
    table = Table(title=machine())
    for column in rows[0]:
        table.add_column(column, justify="left" if column in ("network", "wire", "optimizer") else "right")
    for row in rows:
        table.add_row(*(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    Console(width=110).print(table)
    write_rows(json_file, rows)


if __name__ == "__main__":
    typer.run(main)
