"""Which backend each method of a program gets: by the size of its products, or, near the border, by measuring
both on this computer.

What is measured speaks for this computer, not for a phone: there, other kernels run on another processor. So
only methods are measured for which either backend is sensible anywhere, and the size decides unless the other
backend is clearly faster.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Backend, BackendChoice
from torch.fx import GraphModule

from crowdlearn_export.compiler.compile import compile_lowered
from crowdlearn_export.lowering.backend import WORTHWHILE, choose_backend, products
from crowdlearn_export.stages.stage import Stage, example_inputs

BACKENDS: tuple[Backend, ...] = ("portable", "xnnpack")
BORDER = 8
"""Products of up to this many times fewer or more multiplications than WORTHWHILE are measured."""
CLEARLY = 0.9
"""Of the time that the backend takes which the size suggests: what another one must keep below."""
ROUNDS, SECONDS = 7, 0.004
"""Rounds in which the backends are timed in turn, and how long each runs in one."""


def by_size(lowered: Mapping[str, GraphModule]) -> dict[str, BackendChoice]:
    """The backend that the products of each method suggest."""
    return {name: BackendChoice(choose_backend(graph)) for name, graph in lowered.items()}


def by_measurement(
    stages: Sequence[Stage], lowered: Mapping[str, GraphModule], max_batch: int
) -> dict[str, BackendChoice]:
    """The same, but measured with `max_batch` samples where the size is near the border; methods that compute
    the same in the same shapes are measured once.
    """
    choices = by_size(lowered)
    kinds: dict[str, list[Stage]] = {}
    for stage in stages:
        graph = lowered[stage.method.name]
        if near_border(graph):
            kinds.setdefault(_kind(stage, graph), []).append(stage)
    if not kinds:
        return choices
    measured = [alike[0] for alike in kinds.values()]
    methods = [stage.method for stage in measured]
    executors = {}
    for backend in BACKENDS:
        one = {method.name: backend for method in methods}
        program = compile_lowered(methods, lowered, one, max_batch)
        executors[backend] = ExecuTorchExecutor(program.pte)
    for alike in kinds.values():
        suggested = choices[alike[0].method.name].backend
        times = _times(alike[0], executors, max_batch)
        fastest = min(BACKENDS, key=lambda backend: times[backend])
        chosen = fastest if times[fastest] < CLEARLY * times[suggested] else suggested
        for stage in alike:
            choices[stage.method.name] = BackendChoice(
                chosen, *(round(1e3 * times[backend], 4) for backend in BACKENDS)
            )
    return choices


def near_border(graph: GraphModule) -> bool:
    """Whether either backend is sensible for a lowered method."""
    return WORTHWHILE / BORDER <= multiplications(graph) < WORTHWHILE * BORDER


def multiplications(graph: GraphModule) -> int:
    """In the matrix products of a lowered method, for its example batch."""
    return sum(map(prod, products(graph)))


def _kind(stage: Stage, graph: GraphModule) -> str:
    """The same for methods that compute the same in the same shapes."""
    shapes = [(port.role, port.shape) for port in (*stage.inputs, *stage.outputs)]
    return hashlib.sha256(repr((graph.code, shapes)).encode()).hexdigest()


def _times(stage: Stage, executors: Mapping[Backend, ExecuTorchExecutor], batch: int) -> dict[Backend, float]:
    """The least seconds of a call on each backend, in interleaved rounds."""
    drawn = example_inputs(stage.inputs, batch, torch.Generator().manual_seed(0))
    inputs = [x.numpy() for x in drawn]
    least = dict.fromkeys(BACKENDS, float("inf"))
    for executor in executors.values():
        executor.run(stage.method.name, inputs, borrowed=True)  # the first call plans memory
    for _ in range(ROUNDS):
        for backend, executor in executors.items():
            started = time.perf_counter()
            ends = started + SECONDS
            while started < ends:
                executor.run(stage.method.name, inputs, borrowed=True)
                stopped = time.perf_counter()
                least[backend] = min(least[backend], stopped - started)
                started = stopped
    return least


def this_computer() -> str:
    """Machine and processor, for whoever reads what was measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return ", ".join([platform.machine(), *names[:1]])
