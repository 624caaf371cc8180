"""What a round costs the host's disk and memory: 5 million weights, 100 groups, a window of 100 uploads.

Every group uploads all weights as float32, in chunks as devices send them; each is checked, written down
with its group, and enters the window. Told are the bytes that the process wrote for a round (the window's
file among them), over those that were uploaded, and how long a restarted host takes until it goes on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn.hosting import Merge, RunFolder, SharedModel
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.sharing.selection import CHUNK_WEIGHTS
from crowdlearn_device.sharing.update import Update, chunks, encode_update
from rich.table import Table

from .relay import resident
from .report import show


def model_of(weights: int, omega: int) -> SharedModel:
    arrays = [ArraySpec("w", 0, (), trained=True)]
    return SharedModel(arrays, {"w": np.zeros(weights, np.float32)}, omega=omega)


def written() -> int:
    """Bytes that this process has had written to disks."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise OSError("/proc/self/io tells no write_bytes")


def measure(folder: Path, weights: int, groups: int, omega: int, theta: float, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    seconds, disk, uploaded = [], [], []
    with RunFolder(folder, create=True) as run:
        model = model_of(weights, omega)
        run.open_shared(model)
        values = rng.standard_normal(weights).astype(np.float32)
        for number in range(rounds):
            group = number % groups
            chosen = np.flatnonzero(rng.random(weights) < theta).astype(np.uint32)
            update = Update(0, 0, chosen, values[chosen])
            parts = [encode_update(part) for part in chunks(update, CHUNK_WEIGHTS)]
            before, began = written(), time.process_time()
            for part in parts:
                model.merge(group, Merge(0, 1, 0, ((0, weights),), part))
            records = model.close(group, 1, (0, 0))
            records += model.entering(records)
            run.save({group: {"points": [], "done": False}}, records=records)
            for record in records:
                model.take_in(record)
            run.compact(model)
            seconds.append(time.process_time() - began)
            disk.append(written() - before)
            uploaded.append(sum(map(len, parts)))
        os.sync()
        model.window.average()
    began = time.monotonic()
    with RunFolder(folder, create=False) as run:
        again = model_of(weights, omega)
        run.open_shared(again)
        resumed = time.monotonic() - began
        same = bool(np.allclose(again.window.average(), model.window.average(), rtol=1e-6, atol=1e-7))
    on_disk = sum(path.stat().st_blocks * 512 for path in (folder / "shared").iterdir())
    return {
        "weights": weights,
        "groups": groups,
        "omega": omega,
        "theta": theta,
        "rounds": rounds,
        "uploaded_megabytes_a_round": statistics.mean(uploaded) / 1e6,
        "written_over_uploaded": sum(disk) / sum(uploaded),
        "cpu_seconds_a_round": statistics.median(seconds),
        "resident_megabytes": resident(os.getpid()) / 1e6,
        "folder_megabytes": on_disk / 1e6,
        "resumed_after_seconds": resumed,
        "same_after_resuming": same,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a million weights, 20 groups, a window of 20")
    parser.add_argument("--theta", type=float, nargs="+", default=[1.0, 0.5], help="shares of the weights")
    parser.add_argument("--rounds", type=int, help="rounds in all [default: one of each group]")
    parser.add_argument("--folder", type=Path, help="where the run folder is made [default: the system's]")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    arguments = parser.parse_args(argv)
    weights, groups, omega = (1_000_000, 20, 20) if arguments.quick else (5_000_000, 100, 100)
    rows = []
    for theta in arguments.theta:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path, rounds = Path(folder) / "run", arguments.rounds or groups
            rows.append(measure(path, weights, groups, omega, theta, rounds))
    table = Table("", *(f"theta = {row['theta']}" for row in rows))
    for key in rows[0]:
        table.add_row(
            key.replace("_", " "),
            *(f"{r[key]:,.4g}" if isinstance(r[key], float) else str(r[key]) for r in rows),
        )
    show(arguments.json, rows, table)


if __name__ == "__main__":
    main()
