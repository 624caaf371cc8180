"""What the export of a deep network costs that is cut into three pieces: seconds, CPU seconds and memory.

Each network is prepared by a process of its own with an empty home, as `crowdlearn train` prepares a run: it
is read, cut and compiled for each piece, and every program is compared with PyTorch. Memory is the largest
that this process and those that it starts have in RAM together (PSS), read five times a second.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from .report import importable_elsewhere, known, machine, write_rows

NETWORKS = ("resnet20", "mobilenet_v2", "resnet50")
PIECES, BATCH, PIXELS, CLASSES = 3, 16, 16, 10
PREPARE = """
import sys
from pathlib import Path
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import load_config

prepared = prepare(load_config(Path(sys.argv[1])), lambda event, fields: None)
print(sum(len(program.pte) for program in prepared.programs))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Export each network, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="ResNet-20 alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    options = parser.parse_args(arguments)
    known("--networks", options.networks, NETWORKS)
    importable_elsewhere()
    with tempfile.TemporaryDirectory() as folder:
        give_data(Path(folder))
        names = NETWORKS[:1] if options.quick else options.networks
        rows = [exported(name, Path(folder)) for name in names]
    show(rows)
    write_rows(options.json, rows)


def give_data(folder: Path) -> None:
    """Write a few noisy images of the size that the networks are exported for."""
    draw = np.random.default_rng(0)
    labels = np.arange(2 * BATCH) % CLASSES
    for split in ("train", "test"):
        images = draw.standard_normal((len(labels), 3, PIXELS, PIXELS), np.float32)
        np.savez(folder / f"{split}.npz", inputs=images, labels=labels)


def exported(network: str, folder: Path) -> dict[str, Any]:
    """Return what the export of a network took."""
    config = folder / f"{network}.toml"
    config.write_text(
        f"model = 'benchmarks.models:{network}'\ndata = '{folder}'\n[group]\npieces = {PIECES}\n"
        f"[training]\nbatch = {BATCH}\nmicro_batch = {BATCH}\nkernels = 'by_size'\n"
    )
    environment = {**os.environ, "CROWDLEARN_HOME": str(folder / f"home-{network}")}
    before, began, most = _processor_seconds(), time.monotonic(), 0
    command = [sys.executable, "-W", "ignore", "-c", PREPARE, str(config)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            most = max(most, _memory(process.pid))
            time.sleep(0.2)
        output = process.stdout.read() if process.stdout is not None else ""
    if process.returncode:
        raise SystemExit(f"{network} could not be exported")
    return {
        "network": network,
        "pieces": PIECES,
        "batch": BATCH,
        "seconds": round(time.monotonic() - began, 1),
        "CPU seconds": round(_processor_seconds() - before, 1),
        "memory GB": round(most / 1e9, 2),
        "programs MB": round(int(output) / 1e6, 2),
    }


def _processor_seconds() -> float:
    """Return the processor time of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(root: int) -> int:
    """Return the resident bytes of a process and all that it started; what several share counts once."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(root)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += each.memory_full_info().pss
    return total


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    console = Console(width=110)
    console.print(machine())
    table = Table()
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
