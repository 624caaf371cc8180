"""python -m benchmarks.energy: time, MACs, bytes and joules of training steps, each with where it comes from.

Slices of a network, and the network as a whole, run on this computer: their time is measured, and their
energy where RAPL can be read. For every kind of virtual phone the time is emulated and the energy modelled,
by the constants that its battery is drained with. Rounds of all programs are interleaved; medians are told,
and their spread.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from crowdlearn.models import build_model
from crowdlearn.phones import CPU_WATTS, PROFILES, RECEIVED_JOULES_A_BYTE, SENT_JOULES_A_BYTE
from crowdlearn.planning import (
    Plan,
    Problem,
    Seat,
    Training,
    Wire,
    balanced,
    costs,
    downlink,
    macs_a_sample,
    uplink,
    wire_format,
)
from crowdlearn.testing import cache_home
from crowdlearn_device.energy.meters import RaplMeter
from crowdlearn_device.energy.readings import Provenance, Reading, used
from crowdlearn_device.energy.step_time import measure_step
from crowdlearn_device.errors import MeterError
from crowdlearn_device.program.executor import ProgramStore
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.stages.stage import Optimizer
from crowdlearn_export.tracing.trace import neuron_graph
from rich.console import Console
from rich.table import Table
from torch import nn

from .report import machine, write_rows

MODEL, INPUTS = "mlp:784-400-200-100-10", 784
PIECES = (1, 3)
WIRES = ("int8", "float32")
BATCH = 32
MODEL_SOURCE = (
    "virtual phone's model: 2 W processor (androidauthority.com), Wi-Fi by byte (Huang et al., MobiSys 2012)"
)
CLOCK_SOURCE = "monotonic clock"


@dataclass(frozen=True)
class Case:
    """A program to time: a piece of a plan, with the MACs of a sample."""

    name: str
    sha256: str
    macs: float
    plan: Plan
    piece: int


def main(
    seconds: Annotated[float, typer.Option(min=1, help="Seconds for each program, over all rounds.")] = 60.0,
    quick: Annotated[bool, typer.Option(help="A second for each program, in two rounds.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all rows there.")] = None,
) -> None:
    """Measure on this computer, and model for virtual phones."""
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the executor's libraries load
    torch.set_num_threads(1)
    rounds, each = (2, 0.5) if quick else (5, seconds / 5)
    console = Console(width=150)
    console.print(machine())
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, INPUTS), MODEL)
    with tempfile.TemporaryDirectory() as folder:
        store = ProgramStore(Path(folder))
        cases = _cases(graph, Path(folder))
        runs = [[_step(store, case, each) for case in cases] for _ in range(rounds)]
        eager = [_eager_step(each) for _ in range(rounds)]
    rows = []
    for k, case in enumerate(cases):
        rows += _rows(graph, case, [run[k] for run in runs])
    whole = next(case for case in cases if len(case.plan.pieces) == 1)
    rows.append(_measured("PyTorch eager, whole network", whole.macs, eager))
    _print(console, rows)
    write_rows(json_file, rows)


def _cases(graph: NeuronGraph, folder: Path) -> list[Case]:
    cases = []
    for pieces in PIECES:
        plan = balanced(graph, pieces)
        for k, piece in enumerate(plan.pieces[:2]):  # followers are alike
            program = export_slice(
                graph, piece.owned, Optimizer(momentum=0.9), max_batch=BATCH, cache=cache_home() / "programs"
            )
            for name, content in program.files().items():
                (folder / name).write_bytes(content)
            role = "whole network" if pieces == 1 else "follower" if k else "dominator"
            name = role if pieces == 1 else f"{role} of {pieces}"
            cases.append(Case(name, program.manifest.sha256, macs_a_sample(graph, piece.owned), plan, k))
    return cases


def _step(store: ProgramStore, case: Case, seconds: float) -> tuple[float, float | None]:
    """Seconds of a step of BATCH samples, and its joules if RAPL can be read."""
    with _Rapl() as rapl:
        timed = measure_step(store, case.sha256, seconds)
    return timed.seconds / timed.steps, rapl.joules and rapl.joules / timed.steps


def _eager_step(seconds: float) -> tuple[float, float | None]:
    """The same of PyTorch on the whole network."""
    model = build_model(MODEL, 0)
    sgd = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    inputs, labels = torch.zeros(BATCH, INPUTS), torch.zeros(BATCH, dtype=torch.int64)
    steps, began = 0, time.monotonic()
    with _Rapl() as rapl:
        while steps == 0 or time.monotonic() - began < seconds:
            sgd.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            steps += 1
    return (time.monotonic() - began) / steps, rapl.joules and rapl.joules / steps


class _Rapl:
    """The package's energy while something runs; None if it cannot be read."""

    joules: float | None = None
    _first: Reading | None

    def __enter__(self) -> _Rapl:
        self._meter, self._first = RaplMeter(), None
        with contextlib.suppress(MeterError):
            self._first = self._meter.read()
        return self

    def __exit__(self, *_: object) -> None:
        if self._first is not None:
            try:
                self.joules = used(self._first, self._meter.read()).joules
            except MeterError:
                self.joules = None


def _rows(graph: NeuronGraph, case: Case, runs: Sequence[tuple[float, float | None]]) -> list[dict[str, Any]]:
    rows = [_measured(case.name, case.macs, runs)]
    step = statistics.median(seconds for seconds, _ in runs)
    for key, profile in PROFILES.items():
        seconds = step / profile.cpu_share
        for wire in WIRES:
            sent, received = _bytes(graph, case, wire)
            compute = CPU_WATTS * seconds / BATCH
            radio = SENT_JOULES_A_BYTE * sent + RECEIVED_JOULES_A_BYTE * received
            rows.append(
                _row(
                    f"virtual {key}",
                    case.name,
                    case.macs,
                    seconds,
                    Provenance.EMULATED,
                    "this computer's time",
                )
                | {
                    "wire": wire,
                    "bytes": round(sent + received),
                    "joules": compute + radio,
                    "compute joules": compute,
                    "radio joules": radio,
                    "provenance": str(Provenance.MODELLED),
                    "source": MODEL_SOURCE,
                }
            )
    return rows


def _measured(name: str, macs: float, runs: Sequence[tuple[float, float | None]]) -> dict[str, Any]:
    """A row of this computer, of the medians of all rounds."""
    times = [seconds for seconds, _ in runs]
    energies = [joules for _, joules in runs if joules is not None]
    row = _row("this computer", name, macs, statistics.median(times), Provenance.MEASURED, CLOCK_SOURCE)
    row["spread %"] = round(100 * (max(times) - min(times)) / statistics.median(times), 1)
    if len(energies) == len(runs):
        row |= {
            "joules": statistics.median(energies) / BATCH,
            "provenance": str(Provenance.MEASURED),
            "source": "RAPL, processor package, idle included",
        }
    return row


def _row(
    device: str, program: str, macs: float, seconds: float, provenance: Provenance, source: str
) -> dict[str, Any]:
    """MACs, bytes and joules are of a sample, ms of a step of BATCH samples."""
    return {
        "device": device,
        "program": program,
        "wire": "",
        "macs": round(macs),
        "ms": 1000 * seconds,
        "gflops": 2 * macs * BATCH / seconds / 1e9,
        "bytes": 0,
        "joules": None,
        "provenance": str(provenance),
        "source": source,
        "time provenance": str(provenance),
    }


def _bytes(graph: NeuronGraph, case: Case, wire: str) -> tuple[float, float]:
    """Bytes that the piece sends and receives for a sample."""
    training = Training(BATCH, BATCH, wire=wire_format(wire))
    priced = costs(graph, training)
    sent = Wire(training.wire.dtype_bytes, training.wire.overhead_bytes / training.micro_batch)
    problem = Problem(priced.neurons, priced.links, priced.pinned, (Seat("any", 1),), sent=sent)
    counts = [tuple(piece.owned[layers[0]] for layers in priced.layers) for piece in case.plan.pieces]
    return uplink(problem, counts, case.piece), downlink(problem, counts, case.piece)


def _print(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table(title=f"{MODEL}: a training step of {BATCH} samples; MACs, bytes and joules of one sample")
    columns = ("device", "program", "wire", "macs", "ms", "gflops", "bytes", "joules", "provenance")
    for column in columns:
        table.add_column(column, justify="left" if column in ("device", "program", "wire") else "right")
    for row in rows:
        table.add_row(*(_told(row[column]) for column in columns))
    console.print(table)
    for source in dict.fromkeys(row["source"] for row in rows):
        console.print(f"source: {source}")


def _told(value: object) -> str:
    if value is None:
        return "no meter"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
