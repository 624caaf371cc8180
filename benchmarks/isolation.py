"""What a process of its own costs a program's calls: python -m benchmarks.isolation [--quick] [--json FILE].

Each program runs in this process and beside it, in rounds that alternate. Time on the clock is the median of
the rounds, processor time the least: other work on the computer can only add to that.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from crowdlearn_device.program.executor import Executor, load_program
from crowdlearn_device.program.isolation.isolated import IsolatedExecutor
from crowdlearn_device.program.isolation.warden import Warden
from crowdlearn_device.protocol.frames import Array
from rich.console import Console
from rich.table import Table

from benchmarks.report import machine, write_rows

NETWORKS = ((12, 16, 4), (64, 128, 64, 10), (784, 300, 100, 10), (784, 1024, 1024, 10))
BATCH = 32
BAR_PERCENT = 3.0
ROUND_SECONDS, LEAST_ROUNDS = 0.02, 15
"""Short rounds and many: the least of them is one that nothing else disturbed."""


def program(sizes: Sequence[int]) -> tuple[bytes, list[Array]]:
    """A training step of a dense network of these sizes, and its inputs."""
    import torch
    from crowdlearn_device.optimizers.sgd import Sgd
    from crowdlearn_export.compiler.compile import compile_program
    from crowdlearn_export.stages.train_step import train_step
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))[:-1]
    x, targets = torch.randn(BATCH, sizes[0]), torch.arange(BATCH) % sizes[-1]
    step = train_step(model, functional.cross_entropy, x, targets, Sgd(momentum=0.9))
    given = (*step.state.values(), x, targets, torch.tensor(0.01))
    compiled = compile_program([step.method], max_batch=BATCH)
    return compiled.pte, [tensor.detach().contiguous().numpy().copy() for tensor in given]


def prepared(executor: Executor, inputs: Sequence[Array], copied: int) -> list[Array]:
    """Inputs as a device has them: state where the program reaches it; the last `copied` come anew."""
    own = []
    for array in inputs[: len(inputs) - copied]:
        own.append(executor.zeros(array.shape))
        own[-1][...] = array
    executor.hold(own)
    return [*own, *(x.copy() for x in inputs[len(inputs) - copied :])]


def microseconds(executor: Executor, inputs: list[Array], calls: int) -> tuple[float, float]:
    """Time of a call on the clock, and of processors, its own process included."""
    began, busy = time.perf_counter(), _busy(executor)
    for _ in range(calls):
        executor.run("train_step", inputs, borrowed=True)
    return (time.perf_counter() - began) / calls * 1e6, (_busy(executor) - busy) / calls * 1e6


def _busy(executor: Executor) -> float:
    """Processor seconds of this process and of the executor's."""
    pid = executor.pid if isinstance(executor, IsolatedExecutor) else 0
    apart = time.clock_gettime(~pid << 3 | 2) if pid else 0.0  # clock_getcpuclockid of Linux
    return time.process_time() + apart


def row(warden: Warden, sizes: Sequence[int], seconds: float) -> dict[str, Any]:
    pte, inputs = program(sizes)
    executors = [load_program(pte), warden.load(pte)]
    given = [prepared(executor, inputs, 3) for executor in executors]
    first = [microseconds(executor, x, 20) for executor, x in zip(executors, given, strict=True)]
    calls = max(1, int(ROUND_SECONDS / (min(clock for clock, _ in first) / 1e6)))
    times: list[list[tuple[float, float]]] = []
    over = time.monotonic() + seconds
    while time.monotonic() < over or len(times) < LEAST_ROUNDS:
        times.append([microseconds(executor, x, calls) for executor, x in zip(executors, given, strict=True)])
    within, apart = (median(clock for clock, _ in column) for column in zip(*times, strict=True))
    worked, worked_apart = (min(busy for _, busy in column) for column in zip(*times, strict=True))
    for a, b in zip(given[0], given[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    percent = median(100 * (b / a - 1) for (a, _), (b, _) in times)
    return {
        "network": "-".join(map(str, sizes)),
        "in_process_us": round(within, 1),
        "isolated_us": round(apart, 1),
        "cost_us": round(apart - within, 1),
        "cpu_cost_us": round(worked_apart - worked, 1),
        "cost_percent": round(percent, 1),
        "cpu_cost_percent": round(100 * (worked_apart / worked - 1), 1),
        "within_bar": percent <= BAR_PERCENT,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less time for each network")
    parser.add_argument("--json", type=Path, help="write the rows here")
    arguments = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # read when the executor's libraries load
    warden = Warden()
    rows = [row(warden, sizes, 4.0 if arguments.quick else 20.0) for sizes in NETWORKS]
    warden.close()
    table = Table(*rows[0], title=f"train_step, {BATCH} samples; {machine()}")
    for each in rows:
        table.add_row(*map(str, each.values()))
    Console().print(table)
    write_rows(arguments.json, rows)


if __name__ == "__main__":
    main()
