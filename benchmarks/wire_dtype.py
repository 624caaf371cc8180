"""What float16 and int8 on the wire save, and what they do to training: MNIST's MLP in 5 pieces.

Errors are simulated over several seeds, the wire's rounding emulated on everything that one piece sends
another. Bytes are measured on virtual phones that train on a part of the data.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crowdlearn import RunSpec, phones
from crowdlearn.hosting import new_run, prepare, run, train
from crowdlearn.simulation import SimulationConfig
from crowdlearn_device.data.dataset import Dataset, load_dataset
from crowdlearn_host.runs.data import to_npz
from rich.console import Console
from rich.table import Table

from benchmarks.paper.runs import Finished, Job, run_all

from .drawn_data import data_of
from .report import importable_elsewhere, machine, write_rows
from .seeds import arguments_of, errors, over_seeds

WIRES = ("float32", "float16", "int8")
PIECES, BATCH, EPOCHS, SEEDS = 5, 50, 15, 3
TOLD = (1, 2, 5, 10, 15)
"""Epochs after which the table tells the error."""
REAL_SAMPLES = 2000
TRAINING = {"batch": BATCH, "learning_rate": 0.05, "momentum": 0.9}


def simulated(wire: str, seed: int, epochs: int) -> SimulationConfig:
    values = {
        "seed": seed,
        "model": "paper-mlp",
        "devices": PIECES,
        "group": PIECES,
        "sharing": {"enabled": False},
        "training": {**TRAINING, "epochs": epochs, "schedule": "cosine", "wire": wire},
    }
    return SimulationConfig.parse(values, "the benchmark")


def measured_bytes(wire: str, data: Path, samples: int) -> float:
    """Bytes of sums and errors that phones send for one sample, WebSocket headers included."""
    values = {
        "data": str(data),
        "model": "paper-mlp",
        "group": {"pieces": PIECES},
        "training": {**TRAINING, "epochs": 1, "wire": wire},
    }
    config = RunSpec.parse(values, "the benchmark")
    rows: list[dict[str, Any]] = []

    def on_event(event: str, fields: dict[str, Any]) -> None:
        if event == "evaluated":
            rows.append(fields)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared = prepare(config, on_event)
        with (
            phones.running(PIECES, folder / "home") as started,
            new_run(folder / "run", "", prepared, folder) as opened,
        ):
            run(train(prepared, [phone.serial for phone in started], opened, on_event))
    sent = rows[-1]["bytes"]
    return float(sent["activation"] + sent["error"]) / samples


def part_of(data: Path, folder: Path, samples: int) -> Path:
    """A folder with the first samples of the data set."""
    folder.mkdir()
    for split in ("train", "test"):
        whole = load_dataset(data, split)
        some = Dataset(whole.inputs[:samples], whole.labels[:samples])
        (folder / f"{split}.npz").write_bytes(to_npz(some))
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv, __doc__, "wire_dtype", SEEDS)
    importable_elsewhere()
    console = Console(width=120)
    seeds = range(1 if arguments.quick else arguments.seeds)
    epochs, part, real = (2, 3000, 200) if arguments.quick else (EPOCHS, 0, REAL_SAMPLES)

    def tell(finished: Finished) -> None:
        console.print(f"one of {len(jobs)} runs: {errors(finished)[-1]:.2f} %")

    rows = []
    with data_of(arguments.data) as (data, source), tempfile.TemporaryDirectory() as name:
        jobs = {
            (wire, seed): Job(simulated(wire, seed, epochs), str(data), part)
            for wire in WIRES
            for seed in seeds
        }
        done = run_all(jobs.values(), arguments.runs, arguments.cores, tell)
        some = part_of(data, Path(name) / "data", real)
        for wire in WIRES:
            runs, plain = ([done[jobs[w, seed].key()] for seed in seeds] for w in (wire, "float32"))
            losses = zip(*([record.loss for record in run.records] for run in runs), strict=True)
            rows.append(
                {
                    "wire": wire,
                    "data": source,
                    "bytes_per_sample": measured_bytes(wire, some, real),
                    "loss_by_epoch": [statistics.mean(each) for each in losses],
                    **over_seeds(runs, plain),
                }
            )
    shown = [epoch for epoch in TOLD if epoch <= epochs]
    table = Table("wire", "bytes", *(f"epoch {e}" for e in shown), "last loss", "over float32")
    for row in rows:
        table.add_row(
            row["wire"],
            f"{row['bytes_per_sample']:.0f}",
            *(f"{row['error_by_epoch'][e - 1]:.2f}" for e in shown[:-1]),
            f"{row['error']:.2f} ± {row['spread']:.2f}",
            f"{row['loss_by_epoch'][-1]:.4f}",
            f"{row['difference']:+.3f} ± {row['spread_of_difference']:.3f}",
        )
    console.print(table)
    console.print(f"{len(seeds)} seeds, {epochs} epochs; {machine()}")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
