"""What gradients one update old do to training: MNIST's MLP in 5 pieces, beside synchronous SGD.

Errors are simulated over several seeds; tests/system/test_simulation_is_real.py holds that phones with
`training.staleness = 1` compute the same. `benchmarks.pipeline` measures what it gains in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crowdlearn.simulation import SimulationConfig
from rich.console import Console
from rich.table import Table

from benchmarks.paper.runs import Finished, Job, run_all

from .drawn_data import data_of
from .report import machine, write_rows
from .seeds import arguments_of, errors, over_seeds

PIECES, EPOCHS, SEEDS = 5, 6, 3
BATCHES = (128, 512)
TOLD = (1, 2, 4, 6)
"""Epochs after which the table tells the error."""


def simulated(batch: int, staleness: int, seed: int, epochs: int) -> SimulationConfig:
    values = {
        "seed": seed,
        "model": "paper-mlp",
        "devices": PIECES,
        "group": PIECES,
        "sharing": {"enabled": False},
        "training": {
            "batch": batch,
            "learning_rate": 0.05,
            "momentum": 0.9,
            "epochs": epochs,
            "schedule": "cosine",
            "staleness": staleness,
        },
    }
    return SimulationConfig.parse(values, "the benchmark")


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv, __doc__, "staleness", SEEDS)
    seeds = range(1 if arguments.quick else arguments.seeds)
    epochs, part = (2, 3000) if arguments.quick else (EPOCHS, 0)
    console = Console(width=110)

    def tell(finished: Finished) -> None:
        console.print(f"one of {len(jobs)} runs: {errors(finished)[-1]:.2f} %")

    with data_of(arguments.data) as (data, source):
        jobs = {
            (batch, staleness, seed): Job(simulated(batch, staleness, seed, epochs), str(data), part)
            for batch in BATCHES
            for staleness in (0, 1)
            for seed in seeds
        }
        done = run_all(jobs.values(), arguments.runs, arguments.cores, tell)
    rows: list[dict[str, Any]] = []
    for batch in BATCHES:
        for staleness in (0, 1):
            runs, synchronous = ([done[jobs[batch, s, seed].key()] for seed in seeds] for s in (staleness, 0))
            rows.append(
                {
                    "batch": batch,
                    "staleness": staleness,
                    "data": source,
                    **over_seeds(runs, synchronous),
                }
            )
    shown = [epoch for epoch in TOLD if epoch <= epochs]
    table = Table("batch", "staleness", *(f"error % after {e}" for e in shown), "over synchronous")
    for row in rows:
        shown_errors = [f"{row['error_by_epoch'][e - 1]:.2f}" for e in shown]
        shown_errors[-1] += f" ± {row['spread']:.2f}"
        shown_difference = f"{row['difference']:+.2f} ± {row['spread_of_difference']:.2f}"
        table.add_row(
            str(row["batch"]),
            str(row["staleness"]),
            *shown_errors,
            shown_difference if row["staleness"] else "",
        )
    console.print(table)
    console.print(f"{len(seeds)} seeds, {epochs} epochs; {machine()}")
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
