"""What a mini-batch costs on a device that holds the whole network: one program, against a program of stages.

    python -m benchmarks.train_step.device

Both run in the device runtime's own Piece, in one process, in interleaved rounds: from samples to weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.protocol.schedule import Pass, micro_batches
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.program.methods import Methods
from crowdlearn_export.program.slice_program import SliceProgram, method_folder, program_of
from crowdlearn_export.stages.piece_stages import piece_stages
from crowdlearn_export.tracing.trace import neuron_graph
from executorch.extension.pybindings import _portable_lib
from rich.console import Console
from rich.table import Table

from benchmarks.models import NETWORKS
from benchmarks.report import machine, write_rows

BATCH, RATE, ROUNDS, SECONDS = 32, 0.01, 15, 0.12
SGD = Sgd(momentum=0.9)
WAYS = ("stages", "one program")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step.device", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the MLP alone")
    parser.add_argument("--models", default="mlp,paper_mlp,cnn", help="comma-separated")
    parser.add_argument("--micro-batches", default="32,16", help="comma-separated samples of a micro-batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _portable_lib._unsafe_reset_threadpool(options.threads)
    models = ["mlp"] if options.quick else options.models.split(",")
    rows = []
    for model in models:
        graph, pieces = prepared(model)
        for micro in map(int, options.micro_batches.split(",")):
            rows += measured(model, graph, pieces, micro, options.threads)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(as_table(rows), machine(), sep="\n")
    write_rows(options.json, rows)


def prepared(model: str) -> tuple[NeuronGraph, dict[str, SliceProgram]]:
    """The network, and the program of either way."""
    network = NETWORKS[model]
    torch.manual_seed(0)
    graph = neuron_graph(network.build(), torch.zeros(2, *network.sample))
    owned = [layer.neurons for layer in graph.layers]
    programs = {}
    for way, first in zip(WAYS, (len(owned) - 1, 0), strict=True):
        stages = piece_stages(graph, owned, SGD, first=first)
        with method_folder(None) as folder:
            programs[way] = program_of(graph, owned, SGD, stages, Methods(folder, BATCH))
    return graph, programs


def piece_of(model: str, graph: NeuronGraph, program: SliceProgram) -> Piece:
    """A device that holds the whole network, at its start."""
    torch.manual_seed(0)
    arrays = arrays_of(graph, NETWORKS[model].build().state_dict())
    layers: dict[int, dict[str, Any]] = {}
    for spec in array_specs(graph):
        kept = layers.setdefault(spec.layer, {})
        kept[f"value/{spec.name}"] = arrays[spec.name].copy()
        if spec.trained:
            kept[f"momentum/{spec.name}"] = np.zeros_like(arrays[spec.name])
    neurons = tuple((0, layer.neurons) for layer in graph.layers)
    executor = ExecuTorchExecutor(program.pte)
    state = PieceState(neurons, layers)
    return Piece(program.manifest, executor, (neurons,), 0, state, 0, Pass(0, 1 << 30), RATE, seed=0)


def mini_batch(piece: Piece, inputs: Array, labels: Array, micro: int) -> None:
    """One training step, as the dominator takes it."""
    parts = micro_batches(len(inputs), micro)
    for number, part in enumerate(parts):
        rows = slice(part.start, part.stop)
        piece.feed(piece.boundary, number, len(parts), len(inputs), inputs[rows], labels[rows])
        while piece.ready:
            piece.run()


def measured(
    model: str, graph: NeuronGraph, programs: dict[str, SliceProgram], micro: int, threads: int
) -> list[dict[str, Any]]:
    """A row for either way: milliseconds of a mini-batch, and the ratio to stages in the same rounds."""
    network, rng = NETWORKS[model], np.random.default_rng(0)
    inputs = rng.standard_normal((BATCH, *network.sample)).astype(np.float32)
    labels = rng.integers(0, network.classes, BATCH)
    pieces = {way: piece_of(model, graph, program) for way, program in programs.items()}
    steps = {}
    for way, piece in pieces.items():
        mini_batch(piece, inputs, labels, micro)
        started = time.perf_counter()
        mini_batch(piece, inputs, labels, micro)
        steps[way] = max(1, round(SECONDS / (time.perf_counter() - started)))
    times: dict[str, list[float]] = {way: [] for way in pieces}
    for _ in range(ROUNDS):
        for way, piece in pieces.items():
            started = time.perf_counter()
            for _ in range(steps[way]):
                mini_batch(piece, inputs, labels, micro)
            times[way].append(1e3 * (time.perf_counter() - started) / steps[way])
    return [
        {"model": model, "batch": BATCH, "micro_batch": micro, "threads": threads, "way": way}
        | {"ms": round(median(times[way]), 3), **spread(times[way], times[WAYS[0]])}
        | {"program_bytes": len(programs[way].pte), "arena_bytes": programs[way].manifest.arena_bytes}
        for way in pieces
    ]


def spread(times: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """The median of the ratios to `reference`, their 10th and 90th percentile."""
    ratios = sorted(t / r for t, r in zip(times, reference, strict=True))
    found = ratios[len(ratios) // 2], ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    return dict(zip(("ratio", "ratio_low", "ratio_high"), (round(r, 3) for r in found), strict=True))


def as_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="a mini-batch of 32 on one device; ratio to stages: median (10th to 90th percentile)")
    for name in ("model", "micro-batch", "way", "ms", "ratio", "program kB", "arena MB"):
        table.add_column(name, justify="left" if name in ("model", "way") else "right")
    for row in rows:
        table.add_row(
            row["model"],
            str(row["micro_batch"]),
            row["way"],
            f"{row['ms']:.2f}",
            f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})",
            f"{row['program_bytes'] / 1e3:.0f}",
            f"{row['arena_bytes'] / 1e6:.1f}",
        )
    return table


if __name__ == "__main__":
    main()
