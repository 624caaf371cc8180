"""Which models of the zoo train on a device, how exactly, and how fast beside PyTorch, measured:

python -m benchmarks.zoo [--quick] [--models "HAR GRU,regression"] [--json FILE]

Every model takes 20 steps of its optimizer through the device's own piece and ExecuTorch, in the loss of its
kind, and the same in PyTorch float64; `max_error` is the largest difference of a weight over the largest
weight of its array, and `float32_error` that of PyTorch's own float32. Where ReLU or a maximum is at its
kink, rounding takes a side by chance, and neither is wrong. So is Adam's first step, a gradient over its own
size, where a gradient is next to 0. Mini-batches are drawn again while they are so near, and `at_kinks`
counts those for which none was found. `any_draw` and `any_draw_float32` are the errors on mini-batches as
they are drawn first. Steps are timed on one core, beside PyTorch's eager steps, in the same rounds, and
compiling, in seconds of processors: what else runs matters little.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from crowdlearn_device.piece.piece import Piece
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.protocol.frames import Array
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_device.protocol.targets import IGNORED
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.errors import ExportError
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of, state_of
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.program.kinks import Margins
from crowdlearn_export.program.slice_program import SliceProgram, export_slice
from crowdlearn_export.stages.optimizers import torch_optimizer
from crowdlearn_host.models.several_inputs import of_one_input
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.report import machine, write_rows

from .networks import QUICK, ZOO, Kind

STEPS, BATCH, ROUNDS = 20, 16, 5
DRAWS = 40
"""Draws of a mini-batch until one is away from kinks."""
AWAY = 1e-5
"""Standard deviations from a kink, beyond what float32 errs by in networks of a dozen layers."""
ROUNDING, SWAYED = 1e-7, 1e-5
"""The error of float32 in a gradient, of the largest of its array, and how far that may move a weight."""
UNCOUNTED = 0.2
"""The share of positions that do not count in the loss of a sequence."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--models", help="comma-separated; only these")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    wanted = options.models.split(",") if options.models else QUICK if options.quick else tuple(ZOO)
    if unknown := [name for name in wanted if name not in ZOO]:
        parser.error(f"no model {unknown[0]!r}; there are: {', '.join(ZOO)}")
    rows = []
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name in wanted:
        rows.append(row := measured(name, ZOO[name]))
        console.print(f"{row['model']}: {row['trains']}, error {row['max_error']}", highlight=False)
    table = Table(title=f"{STEPS} steps, batch {BATCH}, one core")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    console.print(table, machine(), sep="\n")
    write_rows(options.json, rows)


def measured(name: str, kind: Kind) -> dict[str, Any]:
    """The row of a model."""
    torch.manual_seed(0)
    model, loss = of_one_input(kind.build()), make_loss(kind.loss)
    row: dict[str, Any] = {"model": name, "loss": kind.loss, "optimizer": kind.optimizer.kind, "trains": "no"}
    row |= dict.fromkeys(("max_error", "float32_error", "at_kinks", "any_draw", "any_draw_float32"))
    row |= {"step_ratio_to_eager": None, "compile_s": None, "why": ""}
    started = processor_seconds()
    try:
        graph = trainable_graph(model, torch.zeros(2, *kind.sample), name, loss, pieces=1)
        owned = [layer.neurons for layer in graph.layers]
        program = export_slice(graph, owned, kind.optimizer, loss, max_batch=BATCH)
    except ExportError as error:
        return row | {"why": str(error).partition("; supported")[0][:200]}
    row["compile_s"] = round(processor_seconds() - started, 1)
    batches, exact, row["at_kinks"] = trained_exactly(kind, model, loss, graph)
    first = [batch_of(kind, graph, loss, number) for number in range(STEPS)]
    row["max_error"], row["float32_error"] = errors(kind, model, loss, graph, program, batches, exact)
    if any(x is not y for (x, _), (y, _) in zip(first, batches, strict=True)):
        any_exact = eager(copy.deepcopy(model).double(), loss, first, graph, kind)
        found = errors(kind, model, loss, graph, program, first, any_exact)
        row["any_draw"], row["any_draw_float32"] = found
    piece = piece_of(graph, program, model, kind.rate)
    row["step_ratio_to_eager"] = round(ratio(piece, copy.deepcopy(model), loss, batches, graph, kind), 2)
    return row | {"trains": "sliced" if graph.whole is None else "whole"}


def errors(
    kind: Kind,
    model: nn.Module,
    loss: Loss,
    graph: NeuronGraph,
    program: SliceProgram,
    batches: list[tuple[Array, Array]],
    exact: nn.Module,
) -> tuple[float, float]:
    """The errors of a device and of PyTorch's float32 after a step of each mini-batch."""
    piece = piece_of(graph, program, model, kind.rate)
    for x, y in batches:
        step(piece, x, y)
    held = [item for arrays in piece.state().layers.values() for item in arrays.items()]
    found = {key[6:]: value for key, value in held if key.startswith("value/")}
    narrow = eager(copy.deepcopy(model), loss, batches, graph, kind)
    ours = state_of(graph, found, model.state_dict())
    return difference(ours, exact.state_dict()), difference(narrow.state_dict(), exact.state_dict())


def processor_seconds() -> float:
    """The seconds that processors have spent on this process and on the ones that it began."""
    return sum(os.times()[:4])


def batch_of(kind: Kind, graph: NeuronGraph, loss: Loss, number: int) -> tuple[Array, Array]:
    """A mini-batch: samples as float32, and targets as the loss takes them."""
    draw = np.random.default_rng(number)
    shape = (BATCH, *kind.sample)
    x = draw.integers(0, kind.vocabulary, shape) if kind.vocabulary else draw.normal(size=shape)
    spec = loss.targets(*graph.scores)
    if spec.are_classes:
        y = draw.integers(0, graph.scores[-1], (BATCH, *spec.shape))
        if spec.are_sequences:
            y[draw.random(y.shape) < UNCOUNTED] = IGNORED
        return x.astype(np.float32), y
    numbers = draw.random((BATCH, *spec.shape)) if spec.most == 1 else draw.normal(size=(BATCH, *spec.shape))
    return x.astype(np.float32), numbers.astype(np.float32)


def trained_exactly(
    kind: Kind, model: nn.Module, loss: Loss, graph: NeuronGraph
) -> tuple[list[tuple[Array, Array]], nn.Module, int]:
    """Return mini-batches as far from kinks as draws allow, the float64 model after a step of each, and how
    many of them are not away.
    """
    exact, batches, at_kinks = copy.deepcopy(model).double(), [], 0
    own = torch_optimizer(kind.optimizer, [p for p in exact.parameters() if p.requires_grad], kind.rate)
    for number in range(STEPS):
        farthest = -1.0
        for draw in range(DRAWS):
            drawn = batch_of(kind, graph, loss, number + STEPS * draw)
            if (away := distance(exact, own, loss, drawn, graph)) > farthest:
                farthest, (x, y) = away, drawn
            if farthest > 1:
                break
        at_kinks += farthest <= 1
        batches.append((x, y))
        eager_step(exact, own, loss, x, y, graph)
    return batches, exact, at_kinks


def distance(
    exact: nn.Module, own: torch.optim.Optimizer, loss: Loss, batch: tuple[Array, Array], graph: NeuronGraph
) -> float:
    """How far a mini-batch is from kinks of the model and of the optimizer; above 1 it is away."""
    with torch.no_grad(), Margins(BATCH) as watched:
        copy.deepcopy(exact)(samples_of(batch[0], graph, torch.float64))
    least = float(watched.least.min()) / AWAY
    return min(least, SWAYED / max(sway(exact, own, loss, batch, graph), 1e-30)) if least > 1 else least


def sway(
    exact: nn.Module, own: torch.optim.Optimizer, loss: Loss, batch: tuple[Array, Array], graph: NeuronGraph
) -> float:
    """How far rounding in gradients moves a weight in one step, over the largest of its array."""
    moved = []
    for rounding in (0.0, ROUNDING):
        model, optimizer = copy.deepcopy((exact, own))
        backward(model, optimizer, loss, *batch, graph)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad += rounding * parameter.grad.abs().max()
        optimizer.step()
        moved.append(model.state_dict())
    return difference(*moved)


def samples_of(x: Array, graph: NeuronGraph, dtype: torch.dtype) -> Tensor:
    """Return samples float32 [B, ...] as the model takes them."""
    integers = graph.whole is not None and graph.whole.integers
    return torch.from_numpy(x).long() if integers else torch.from_numpy(x).to(dtype)


def piece_of(
    graph: NeuronGraph,
    program: SliceProgram,
    model: nn.Module,
    rate: float,
    executor: ExecuTorchExecutor | None = None,
) -> Piece:
    """A device that holds the whole network, at its start."""
    arrays = arrays_of(graph, model.state_dict())
    layers: dict[int, dict[str, Any]] = {}
    for spec in array_specs(graph):
        kept = layers.setdefault(spec.layer, {})
        kept[f"value/{spec.name}"] = arrays[spec.name].copy()
        if spec.trained:
            slots = program.manifest.optimizer.slots
            kept |= {f"{slot}/{spec.name}": np.zeros_like(arrays[spec.name]) for slot in slots}
    neurons = tuple((0, layer.neurons) for layer in graph.layers)
    state = PieceState(neurons, layers)
    executor = executor or ExecuTorchExecutor(program.pte)
    return Piece(program.manifest, executor, (neurons,), 0, state, 0, Pass(0, 1 << 30), rate, seed=0)


def step(piece: Piece, x: Array, y: Array) -> None:
    """One training step, as the dominator takes it."""
    piece.feed(piece.boundary, 0, 1, len(x), x, y, piece.targets.weight(y))
    while piece.ready:
        piece.run()


def eager(
    model: nn.Module,
    loss: Loss,
    batches: list[tuple[Array, Array]],
    graph: NeuronGraph,
    kind: Kind,
) -> nn.Module:
    """The model after the same steps in PyTorch, in its own precision."""
    learning = [p for p in model.parameters() if p.requires_grad]
    own = torch_optimizer(kind.optimizer, learning, kind.rate)
    for x, y in batches:
        eager_step(model, own, loss, x, y, graph)
    return model


def eager_step(
    model: nn.Module, own: torch.optim.Optimizer, loss: Loss, x: Array, y: Array, graph: NeuronGraph
) -> None:
    """Take a step of PyTorch on samples float32 [B, ...] and targets [B, ...]."""
    backward(model, own, loss, x, y, graph)
    own.step()


def backward(
    model: nn.Module, own: torch.optim.Optimizer, loss: Loss, x: Array, y: Array, graph: NeuronGraph
) -> None:
    """Compute the gradients of samples float32 [B, ...] and targets [B, ...]."""
    dtype, targets = next(model.parameters()).dtype, torch.from_numpy(y)
    targets = targets.to(dtype) if targets.is_floating_point() else targets
    own.zero_grad()
    scores = model(samples_of(x, graph, dtype))
    torch.autograd.backward(loss.reference(scores, targets) / loss.targets(*graph.scores).weight(y))


def difference(trained: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> float:
    """The largest difference of a weight, over the largest weight of its array."""
    errors = [
        float((trained[name] - value).abs().max()) / max(float(value.abs().max()), 1e-2)
        for name, value in exact.items()
        if value.is_floating_point()
    ]
    return float(f"{max(errors):.1e}")


def ratio(
    piece: Piece,
    model: nn.Module,
    loss: Loss,
    batches: list[tuple[Array, Array]],
    graph: NeuronGraph,
    kind: Kind,
) -> float:
    """The processor time of a step of the piece over that of an eager step, medians of rounds in turn."""
    times: tuple[list[float], list[float]] = [], []
    for _ in range(ROUNDS):
        started = time.process_time()
        for x, y in batches:
            step(piece, x, y)
        times[0].append(time.process_time() - started)
        started = time.process_time()
        eager(model, loss, batches, graph, kind)
        times[1].append(time.process_time() - started)
    return median(times[0]) / median(times[1])


if __name__ == "__main__":
    main()
