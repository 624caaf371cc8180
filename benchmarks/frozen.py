"""What it costs, and saves, that devices hold frozen weights in fewer bytes (training.frozen).

    python -m benchmarks.frozen [--quick] [--json FILE]

A network learns the digits 0 to 4. Its layers are frozen, and simulated crowds train a new last layer on all
ten digits, over several seeds. Then a dense layer's program is timed for each way to hold its weights, in
interleaved rounds of processor time, and beside them a program that looks bfloat16 up in a table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowdlearn import RunSpec, simulate
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.doctor.held_frozen import held_frozen
from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.neuron_graph import FLOAT
from crowdlearn_export.tracing.trace import neuron_graph
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from .report import machine, write_rows

WIDTHS = (64, 256, 128)
SEEDS, EPOCHS, BEFORE = 3, 10, 60
"""Networks, epochs of the new layer, and steps of Adam before."""
WIDTH, BATCH, ROUNDS, CALLS = 512, 16, 9, 8
MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed({seed})
    features = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    features.load_state_dict(torch.load({path!r}))
    return nn.Sequential(*features.requires_grad_(False), nn.Linear(128, 10))
"""


def features_of(seed: int, inputs: Tensor, labels: Tensor) -> nn.Sequential:
    """Return layers that have learned to tell the digits 0 to 4."""
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU())
    model = nn.Sequential(features, nn.Linear(128, 5))
    adam = torch.optim.Adam(model.parameters(), lr=3e-3)
    some = labels < 5
    for _ in range(BEFORE):
        adam.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[some]), labels[some])
        torch.autograd.backward(loss)
        adam.step()
    return features


def trained(kind: str, seed: int, epochs: int, folder: Path) -> dict[str, float]:
    """Return loss and accuracy of a crowd's network, whose features are held so."""
    values = {
        "model": f"{folder}/model{seed}.py:build",
        "data": "digits",
        "group": {"pieces": 2},
        "training": {"epochs": epochs, "batch": 32, "learning_rate": 0.01, "frozen": kind},
    }
    run = simulate(RunSpec.parse(values, "the benchmark"), folder / f"{kind}-{seed}")
    found = run.evaluate()
    assert found.accuracy is not None
    return {"loss": found.loss, "accuracy": 100 * found.accuracy}


def learned(seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Return a row for each way to hold weights: bytes, difference of scores, loss and accuracy."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    inputs, labels = torch.from_numpy(pixels / 16).float(), torch.from_numpy(classes)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in HELD}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(seeds):
            features = features_of(seed, inputs, labels)
            torch.save(features.state_dict(), folder / f"{seed}.pt")
            (folder / f"model{seed}.py").write_text(MODEL.format(seed=seed, path=f"{folder}/{seed}.pt"))
            for kind, results in found.items():
                whole = nn.Sequential(*deepcopy(features).requires_grad_(False), nn.Linear(128, 10))
                graph = neuron_graph(whole, inputs[:2])
                _, rounding = held_frozen(graph, whole, kind, inputs)  # type: ignore[arg-type]
                result = trained(kind, seed, epochs, folder)
                frozen = FLOAT * sum(a * b for a, b in pairwise(WIDTHS))
                result["bytes"] = rounding.bytes if rounding else frozen
                result["difference"] = rounding.difference if rounding else 0.0
                results.append(result)
                print(f"{kind}, seed {seed}: {result['accuracy']:.2f} %", flush=True)
    return [
        {
            "held": kind,
            "bytes": int(results[0]["bytes"]),
            "difference": max(each["difference"] for each in results),
            "loss": statistics.mean(each["loss"] for each in results),
            "accuracy": statistics.mean(each["accuracy"] for each in results),
            "accuracies": [each["accuracy"] for each in results],
        }
        for kind, results in found.items()
    ]


def layer(kind: str) -> tuple[ExecuTorchExecutor, list[Any], int]:
    """Return the program of a dense layer whose weights are held so, its inputs, and its bytes."""
    torch.manual_seed(0)
    weight, x = torch.randn(WIDTH, WIDTH) / WIDTH**0.5, torch.randn(5, WIDTH)
    if kind == "bfloat16":
        bits = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
        table = bits.view(torch.bfloat16).float().nan_to_num(0, 0, 0)
        given = [weight.bfloat16().view(torch.int16)]

        def run(x: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            places = (parts[0].to(torch.int32) + (1 << 15)).reshape(-1)
            return (torch.tanh(x @ table.index_select(0, places).view(WIDTH, WIDTH)),)
    else:
        held = HELD[kind]
        codes, *spacings = held.encoded(weight)
        given = [codes.to(getattr(torch, held.dtype)), *spacings]

        def run(x: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            return (torch.tanh(x @ held.decoded(*parts)),)

    program = compile_program([Method("run", run, (x, *given), (0,))], max_batch=BATCH)
    arrays = [
        np.random.default_rng(0).standard_normal((BATCH, WIDTH), np.float32),
        *(g.numpy() for g in given),
    ]
    return ExecuTorchExecutor(program.pte), arrays, len(program.pte)


def timed(rounds: int) -> dict[str, dict[str, float]]:
    """Return nanoseconds of processor time for each weight beside float32, and the program's bytes."""
    layers = {kind: layer(kind) for kind in (*HELD, "bfloat16")}
    least = dict.fromkeys(layers, float("inf"))
    for executor, arrays, _ in layers.values():
        executor.run("run", arrays, borrowed=True)
    for _ in range(rounds):
        for kind, (executor, arrays, _) in layers.items():
            began = time.process_time()
            for _ in range(CALLS):
                executor.run("run", arrays, borrowed=True)
            least[kind] = min(least[kind], (time.process_time() - began) / CALLS)
    return {
        kind: {"ns_per_weight": 1e9 * (least[kind] - least["float32"]) / WIDTH**2, "program_bytes": size}
        for kind, (_, _, size) in layers.items()
    }


def as_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        "held", "bytes", "scores differ by", "loss", "accuracy %", "ns for each weight", "program bytes"
    )
    for row in rows:
        cells = [f"{row['ns_per_weight']:.1f}", f"{row['program_bytes']:,}"]
        if "loss" in row:
            told = (
                f"{row['bytes']:,}",
                f"{row['difference']:.0e}",
                f"{row['loss']:.4f}",
                f"{row['accuracy']:.2f}",
            )
        else:
            told = ("", "", "", "")
        table.add_row(row["held"], *told, *cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.frozen")
    parser.add_argument("--quick", action="store_true", help="one seed, two epochs")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    seeds, epochs = (1, 2) if options.quick else (SEEDS, EPOCHS)
    times = timed(3 if options.quick else ROUNDS)
    rows = [{**row, **times.pop(row["held"])} for row in learned(seeds, epochs)]
    rows += [{"held": kind, **each} for kind, each in times.items()]
    Console(width=120).print(as_table(rows), f"{seeds} seeds, {epochs} epochs; {machine()}", sep="\n")
    write_rows(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
