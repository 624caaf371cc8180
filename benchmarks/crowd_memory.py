"""python -m benchmarks.crowd_memory [--data FOLDER]: what a simulated crowd takes in memory and on disk.

The paper's network on 1000 and on 10,000 devices, which share MNIST's 60,000 samples: federated averaging,
whose devices keep no model between rounds, and SliceNet, whose groups do. Memory is the most that one process
took (`crowdlearn simulate --processes 1`), a checkpoint is the file that the run goes on from.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.drawn_data import data_of
from benchmarks.report import machine, write_rows

MEGA = 1e6
COMMAND = "from crowdlearn_host.cli import main; main()"


@dataclass(frozen=True)
class Crowd:
    """Devices, in groups of so many where a method has groups, and the keys of their method."""

    method: str
    devices: int
    group: int
    keys: str


FEDAVG = "method = 'fedavg'\n[fedavg]\nfraction = {fraction}\n"
SLICENET = "method = 'slicenet'\n[sharing]\ntheta = 0.5\ntau = 0.5\n"
CROWDS = (
    Crowd("fedavg", 1000, 1, FEDAVG.format(fraction=0.1)),
    Crowd("fedavg", 10_000, 1, FEDAVG.format(fraction=0.01)),
    Crowd("slicenet", 1000, 10, SLICENET),
    Crowd("slicenet", 10_000, 10, SLICENET),
)
"""A hundred devices train in a round of federated averaging, and all in one of SliceNet."""


def main(
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST's four files; without, data are drawn.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each crowd.")] = 2,
    only: Annotated[str, typer.Option(help="Only crowds whose method has this in it.")] = "",
    quick: Annotated[bool, typer.Option(help="One round of federated averaging.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Simulate each crowd in a process of its own."""
    if quick:
        rounds, only = 1, "fedavg"
    with data_of(data) as (folder, source):
        rows = [_row(crowd, folder, rounds) for crowd in CROWDS if only in crowd.method]
    table = Table(title=f"A crowd's memory, data: {source}; {machine()}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
    write_rows(json_file, rows)


def _row(crowd: Crowd, data: Path, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "crowd.toml"
        config.write_text(
            f"model = 'paper-mlp'\ndevices = {crowd.devices}\ngroup = {crowd.group}\n{crowd.keys}"
            f"[training]\nepochs = {rounds}\nbatch = 50\nlearning_rate = 0.1\n"
        )
        words = ["simulate", str(config), "--data", str(data), "--run", str(folder / "run")]
        with subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words, "--processes", "1"], stdout=subprocess.DEVNULL
        ) as run:
            _, status, usage = os.wait4(run.pid, 0)
            run.returncode = os.waitstatus_to_exitcode(status)
        if run.returncode:
            sys.exit(f"{crowd.devices} devices by {crowd.method} failed; see the message above")
        checkpoint = (folder / "run" / "checkpoint.npz").stat().st_size
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "method": crowd.method,
        "devices": crowd.devices,
        "models that stay": 1 if crowd.method == "fedavg" else crowd.devices // crowd.group,
        "memory, MB": round(usage.ru_maxrss * unit / MEGA),
        "checkpoint, MB": round(checkpoint / MEGA, 2),
        "rounds": rounds,
    }


if __name__ == "__main__":
    typer.run(main)
