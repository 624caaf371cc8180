"""How exact the gradients of whole training steps are, measured from their programs:

python -m benchmarks.gradients [--quick] [--models resnet20,mobilenet] [--memory least] [--json FILE]

The reference is autograd in float64. A batch is small, so that samples can be found for which no input of
ReLU or max pooling is near its kink: there float32 and float64 may take different sides, and neither is
wrong. The program takes any batch; it is compiled for 32.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.program.parity import relative_error
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.train_step.__main__ import compiled
from benchmarks.train_step.cases import batch_of, built, margins
from benchmarks.train_step.engine import Array

from .models import NETWORKS
from .report import known, machine, write_rows

BATCH = 4
CALLS = 3
QUICK = ("mlp", "transformer")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradients", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {' and '.join(QUICK)}")
    parser.add_argument("--models", help="comma-separated; only these networks")
    parser.add_argument(
        "--memory", choices=get_args(MemoryUse), default="fastest", help="how the programs use memory"
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    models = options.models.split(",") if options.models else QUICK if options.quick else tuple(NETWORKS)
    known("--models", models, NETWORKS)
    rows = [measured(model, options.memory) for model in models]
    table = Table(title="relative error of a step's gradients against float64")
    for name in (
        "model",
        "batch",
        "distance to a kink",
        "first call",
        "later calls",
        "PyTorch float32",
        "compile s",
    ):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"],
            str(row["batch"]),
            f"{row['kink_distance']:.0e}",
            *(f"{row[name]:.0e}" for name in ("first_error", "later_error", "eager_error")),
            f"{row['compile_s']:.0f}",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table, machine(), sep="\n")
    write_rows(options.json, rows)


def measured(model: str, memory: MemoryUse) -> dict[str, Any]:
    """The errors of one network: the largest difference over the largest exact value of all gradients."""
    x, y = batch_of(model, BATCH)
    exact = gradients(built(model).double(), x.double() if x.is_floating_point() else x, y)
    program = compiled(model, memory=memory)
    executor = ExecuTorchExecutor(program["pte"])
    errors = []
    for _ in range(CALLS):
        new = {name: value.copy() for name, value in program["state"].items()}
        executor.run("train_step", [*new.values(), x.numpy(), y.numpy(), np.array(1, np.float32)])
        found = {n: v.astype(np.float64) - new[n] for n, v in program["state"].items() if n in exact}
        errors.append(relative_error(found, exact))
    return {
        "model": model,
        "memory": memory,
        "batch": BATCH,
        "kink_distance": float(margins(model, x).min()),
        "first_error": errors[0],
        "later_error": max(errors[1:]),
        "eager_error": relative_error(gradients(built(model), x, y), exact),
        "compile_s": program["facts"]["compile_s"],
        "program_bytes": program["facts"]["program_bytes"],
    }


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, Array]:
    """Autograd's, by the names of the parameters."""
    torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
    return {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    main()
