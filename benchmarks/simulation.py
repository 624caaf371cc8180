"""python -m benchmarks.simulation --data FOLDER [--flower PYTHON] [--pfl PYTHON]: client-samples a second.

The same federated averaging of MNIST (whole model, one epoch of plain SGD a round) in our engine, in Flower's
simulation and in pfl-research's, in turns on the same machine: the paper's network on few clients with much
data each and on many with little, and the "2NN" as federated averaging was published with it (McMahan et al.
2017). Beside them, what the machine would do if it computed our matrix products alone, those of evaluation
too.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from crowdlearn.models import build_model
from crowdlearn.simulation import Processes, Setting, SimulationConfig, one_thread, partition, prepare, run
from crowdlearn_device.data.dataset import load_dataset
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_host.simulation.learners.dense import CLASSIFIED, common_columns
from rich.console import Console
from rich.table import Table

from benchmarks.drawn_data import data_of
from benchmarks.report import machine, write_rows

PAPER_WIDTHS = (784, 400, 200, 100, 10)
NN2 = (784, 200, 200, 10)
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Crowd:
    """Who trains what: `clients` share the 60,000 samples, `fraction` of them train each round."""

    name: str
    clients: int
    fraction: float
    batch: int
    model: str = "mlp:" + "-".join(map(str, PAPER_WIDTHS))
    widths: tuple[int, ...] = PAPER_WIDTHS
    normalised: bool = True


CROWDS = (
    Crowd("120 clients, all a round", 120, 1.0, 50),
    Crowd("1200 clients, a tenth a round", 1200, 0.1, 50),
    Crowd(
        "McMahan's 100, a tenth a round", 100, 0.1, 10, "benchmarks.models:fedavg_2nn", NN2, normalised=False
    ),
)
CLIENTS = ("to its favour", "DataLoader")
"""Of Flower, as benchmarks.flower_fedavg tells."""
OURS = "crowdlearn"
Measured = list[tuple[float, float | None]]
"""Seconds and test accuracy of each round of a turn."""
MULTIPLYING_SECONDS = 2.0


def main(
    data: Annotated[
        Path | None, typer.Option(help="Folder with MNIST's four files; without, data are drawn.")
    ] = None,
    flower: Annotated[
        Path | None, typer.Option(help="A Python with flwr[simulation], torch and numpy.")
    ] = None,
    pfl: Annotated[Path | None, typer.Option(help="A Python with pfl, torch and numpy.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Rounds of averaging a turn.")] = 10,
    only: Annotated[str, typer.Option(help="Only crowds whose name has this in it.")] = "",
    turns: Annotated[int, typer.Option(min=1, help="Turns that each engine takes.")] = 3,
    cores: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    quick: Annotated[bool, typer.Option(help="One turn of three rounds, of the first crowd only.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Each engine's rounds after its first, so that starting up does not count; medians of turns' medians."""
    if quick:
        rounds, turns, only = 3, 1, only or CROWDS[0].name
    with data_of(data) as (folder, source):
        rows = [
            {**row, "data": source}
            for crowd in CROWDS
            if only in crowd.name
            for row in _compared(crowd, folder, flower, pfl, rounds, turns, cores)
        ]
    table = Table(title=f"FedAvg, data: {source}, {cores} cores; {machine()}")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console = Console(width=120)
    console.print(table)
    if flower is None:
        console.print("flower: not run here (give --flower, a Python with flwr[simulation])", markup=False)
    if pfl is None:
        console.print("pfl-research: not run here (give --pfl, a Python with pfl)", markup=False)
    write_rows(json_file, rows)


def _compared(
    crowd: Crowd, data: Path, flower: Path | None, pfl: Path | None, rounds: int, turns: int, cores: int
) -> list[dict[str, Any]]:
    setting = _setting(crowd, data, rounds)
    samples = sum(len(own) for own in setting.workload.devices) * crowd.fraction
    fields: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write(setting, crowd, Path(folder))
        for _ in range(turns):
            fields.setdefault(OURS, []).append(_ours(setting, cores))
            for client in CLIENTS if flower else ():
                measured = _flower(str(flower), Path(folder), rounds, cores, client)
                fields.setdefault(f"flower, {client}", []).append(measured)
            if pfl:
                fields.setdefault("pfl-research", []).append(_pfl(str(pfl), Path(folder), rounds, cores))
            alone = samples / _products_alone(setting, crowd, samples, cores)
            fields.setdefault("our products alone", []).append([(alone, None)])
    ours = [median(each for each, _ in turn) for turn in fields[OURS]]
    rows: list[dict[str, Any]] = []
    for engine, measured_turns in fields.items():
        seconds = [median(each for each, _ in turn) for turn in measured_turns]
        ratios = [theirs / own for theirs, own in zip(seconds, ours, strict=True)]
        accuracy = measured_turns[-1][-1][1]
        rows.append(
            {
                "crowd": crowd.name,
                "engine": engine,
                "samples/s": round(samples / median(seconds)),
                "ours/this": round(median(ratios), 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
                "turns": turns,
                "rounds": len(measured_turns[0]),
                "accuracy": accuracy and round(accuracy, 4),
            }
        )
    return rows


def _products_alone(setting: Setting, crowd: Crowd, samples: float, cores: int) -> float:
    """Trained samples per second if a round were nothing but the products of its steps and its evaluation."""
    workload = setting.workload
    batch, classified = setting.config.training.batch, len(workload.test)
    # Of the columns of pixels that are mostly zero there are lists instead.
    common = common_columns(workload.inputs.reshape(len(workload.inputs), -1))
    widths = (common, *crowd.widths[1:])
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        for seconds in (0.1, MULTIPLYING_SECONDS):  # once to start up
            each = pool.starmap(_multiply, [(widths, batch, seconds)] * cores, chunksize=1)
    training, classifying = (float(np.mean([one[kind] for one in each])) for kind in (0, 1))
    return samples * cores / (samples * training + classified * classifying)


def _multiply(widths: tuple[int, ...], batch: int, seconds: float) -> tuple[float, float]:
    """Seconds that the products of a sample take when it is trained, and when it is classified."""

    def timed(step: Callable[[], None], rows: int) -> float:
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds / 2:
            step()
            done += rows
        return (time.perf_counter() - began) / done

    rng = np.random.default_rng(0)

    def values(rows: int) -> list[Floats]:
        return [rng.random((rows, width), np.float32) for width in widths]

    weights = [rng.random(sizes, np.float32) / np.float32(sizes[0]) for sizes in itertools.pairwise(widths)]
    trained, tested = values(batch), values(CLASSIFIED)
    gradients = [np.empty_like(weight) for weight in weights]
    sums = [np.empty_like(value) for value in trained]

    def train() -> None:
        for at, weight in enumerate(weights):
            np.matmul(trained[at], weight, out=sums[at + 1])
        for at in reversed(range(len(weights))):
            if at:
                errors, across, to = (
                    torch.from_numpy(each) for each in (trained[at + 1], weights[at], sums[at])
                )
                torch.mm(errors, across.T, out=to)
            np.matmul(trained[at].T, trained[at + 1], out=gradients[at])

    def classify() -> None:
        for weight, value in zip(weights, tested, strict=False):
            np.matmul(value, weight)

    with one_thread():
        return timed(train, batch), timed(classify, CLASSIFIED)


def _setting(crowd: Crowd, data: Path, rounds: int) -> Setting:
    values = {
        "model": crowd.model,
        "method": "fedavg",
        "devices": crowd.clients,
        "fedavg": {"fraction": crowd.fraction},
        "training": {"epochs": rounds, "batch": crowd.batch, "learning_rate": 0.1},
    }
    config = SimulationConfig.parse(values, "benchmark")
    train, test = (load_dataset(data, part).shaped(crowd.widths[:1]) for part in ("train", "test"))
    devices = partition(train.labels, config.devices, config.partition, config.seed)
    return prepare(config, train, test, devices)


def _ours(setting: Setting, cores: int) -> Measured:
    ends: list[float] = []
    with Processes(setting.workload, cores) as workers:
        records = run(setting, workers, on_round=lambda _: ends.append(time.perf_counter())).records
    # Between two rounds' ends lies the evaluation of the second, as in Flower's.
    seconds = [end - began for began, end in itertools.pairwise(ends)]
    return [(each, float(record.accuracy or 0)) for each, record in zip(seconds, records[1:], strict=True)]


def _flower(python: str, folder: Path, rounds: int, cores: int, client: str) -> Measured:
    code = "from benchmarks.flower_fedavg import main; main()"
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    command = [python, "-c", code, str(folder), str(rounds), str(cores), client]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"flower failed: {done.stderr[-2000:]}")
    content = json.loads((folder / "flower.json").read_text())
    # The first entry is the initial model, the second the first round, which loads data and models.
    return [(b["time"] - a["time"], b["accuracy"]) for a, b in itertools.pairwise(content[1:])]


def _pfl(python: str, folder: Path, rounds: int, cores: int) -> Measured:
    script = str(ROOT / "benchmarks" / "pfl_fedavg.py")
    started = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(cores)]
    command = [python, *started, script, str(folder), str(rounds), str(cores)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"pfl-research failed: {done.stderr[-2000:]}")
    content = json.loads((folder / "pfl.json").read_text())
    # The first entry is the first round, which loads data and models.
    return [(b["time"] - a["time"], b["accuracy"]) for a, b in itertools.pairwise(content)]


def _write(setting: Setting, crowd: Crowd, folder: Path) -> None:
    workload, training = setting.workload, setting.config.training
    np.save(folder / "inputs.npy", workload.inputs)
    np.save(folder / "labels.npy", workload.labels)
    np.save(folder / "test_inputs.npy", workload.test.inputs)
    np.save(folder / "test_labels.npy", workload.test.labels)
    np.save(folder / "devices.npy", np.stack(workload.devices))
    torch.save(build_model(setting.config.model, 0).state_dict(), folder / "initial.pt")
    settings = {
        "widths": crowd.widths,
        "normalised": crowd.normalised,
        "batch": training.batch,
        "rate": training.learning_rate,
        "fraction": crowd.fraction,
    }
    (folder / "settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    typer.run(main)
