"""Where the time of a step of a model of the zoo goes, operator by operator:

python -m benchmarks.zoo.operators [--model nanoGPT] [--apart] [--json FILE]

It is measured as benchmarks.train_step.operators measures, at the zoo's batch and on one core.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import TRAIN_STEP
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_host.models.several_inputs import of_one_input
from executorch.extension.pybindings import _portable_lib
from rich.console import Console

from benchmarks.report import machine, write_rows
from benchmarks.train_step.operators import apart, as_table, measured

from .__main__ import BATCH, batch_of, piece_of, step
from .networks import ZOO


class Watched(ExecuTorchExecutor):
    """An executor that keeps what the last call was given."""

    given: list[torch.Tensor]

    def run(self, method: str, inputs: Any, **options: Any) -> Any:
        """Run a method on these arrays, float32 or int64 [...], and keep copies of them."""
        self.given = [torch.from_numpy(np.array(array)) for array in inputs]
        return super().run(method, inputs, **options)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.operators", description=__doc__)
    parser.add_argument("--model", default="nanoGPT", choices=list(ZOO), metavar="MODEL")
    parser.add_argument("--apart", action="store_true", help="time the operations of XNNPACK one by one")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    _portable_lib._unsafe_reset_threadpool(1)
    torch.manual_seed(0)
    kind = ZOO[options.model]
    model, loss = of_one_input(kind.build()), make_loss(kind.loss)
    graph = trainable_graph(model, torch.zeros(2, *kind.sample), options.model, loss, pieces=1)
    owned, kinds = [layer.neurons for layer in graph.layers], dict[bytes, str]()
    with apart(kinds) if options.apart else nullcontext():
        program = export_slice(graph, owned, kind.optimizer, loss, max_batch=BATCH)
    watched = Watched(program.pte)
    step(piece_of(graph, program, model, kind.rate, watched), *batch_of(kind, graph, loss, 0))
    rows = [
        {"model": options.model, **row} for row in measured(program.pte, watched.given, kinds, TRAIN_STEP)
    ]
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(as_table(rows), machine(), sep="\n")
    write_rows(options.json, rows)


if __name__ == "__main__":
    main()
