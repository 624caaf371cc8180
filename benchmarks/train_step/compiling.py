"""Processor seconds that compiling a training step takes, by network:

python -m benchmarks.train_step.compiling [--models resnet20,mobilenet] [--json FILE]

A small network is compiled first, for what happens once in a process.
"""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path
from typing import Any

import torch
from crowdlearn_export.compiler.compile import compile_program
from crowdlearn_export.graph.memory_curves import USUAL
from crowdlearn_export.stages.train_step import train_step

from benchmarks.models import NETWORKS
from benchmarks.report import known, machine, write_rows

from .__main__ import write_example
from .cases import built

MODELS = ("resnet20", "mobilenet", "transformer", "cnn")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step.compiling", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    models = options.models.split(",")
    known("--models", models, NETWORKS)
    measured("mlp")
    rows = [measured(model) for model in models]
    for row in rows:
        print(f"{row['model']}: {row['cpu_s']:.1f} s, program {row['program_bytes'] / 1e3:.0f} kB")
    print(machine())
    write_rows(options.json, rows)


def measured(model: str) -> dict[str, Any]:
    """The row of one network; processes that compiling starts count."""
    gc.collect()
    before = sum(os.times()[:4])
    step = train_step(built(model), torch.nn.functional.cross_entropy, *write_example(model))
    program = compile_program([step.method], max_batch=32, memory=USUAL)
    seconds = round(sum(os.times()[:4]) - before, 2)
    return {"model": model, "cpu_s": seconds, "program_bytes": len(program.pte)}


if __name__ == "__main__":
    main()
