"""Which backend each method of a program gets: by the size of its products, or, near the border, by measuring
both on this computer.

What is measured speaks for this computer, not for a phone: there, other kernels run on another processor. So
only methods are measured for which either backend is sensible anywhere, and the size decides unless the other
backend is clearly faster.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Backend, BackendChoice

from crowdlearn_export.lowering.backend import WORTHWHILE
from crowdlearn_export.stages.stage import Stage, example_inputs

from .methods import METHOD, CompiledMethod, Methods

BACKENDS: tuple[Backend, ...] = ("portable", "xnnpack")
BORDER = 8
"""Products of up to this many times fewer or more multiplications than WORTHWHILE are measured."""
CLEARLY = 0.9
"""The part of the suggested backend's time that another one must keep below."""
ROUNDS, SECONDS = 7, 0.004
"""Rounds in which the backends are timed in turn, and how long each runs in one."""


def by_size(method: CompiledMethod) -> BackendChoice:
    """Return the backend that the products of a method suggest."""
    return BackendChoice(method.backend)


def by_measurement(stage: Stage, methods: Methods) -> BackendChoice:
    """Return the same, but measured with the largest batch where the size is near the border."""
    suggested = methods.compiled(stage)
    if not near_border(suggested.multiplications):
        return by_size(suggested)
    of = {b: suggested if b == suggested.backend else methods.compiled(stage, b) for b in BACKENDS}
    executors = {backend: ExecuTorchExecutor(method.program.pte) for backend, method in of.items()}
    times = _times(stage, executors, methods.max_batch)
    fastest = min(BACKENDS, key=lambda backend: times[backend])
    chosen = fastest if times[fastest] < CLEARLY * times[suggested.backend] else suggested.backend
    return BackendChoice(chosen, *(round(1e3 * times[backend], 4) for backend in BACKENDS))


def near_border(multiplications: int) -> bool:
    """Return whether either backend is sensible for a method with so many multiplications in its products."""
    return WORTHWHILE / BORDER <= multiplications < WORTHWHILE * BORDER


def _times(stage: Stage, executors: Mapping[Backend, ExecuTorchExecutor], batch: int) -> dict[Backend, float]:
    """Return the least seconds of a call on each backend, in interleaved rounds."""
    drawn = example_inputs(stage.inputs, batch, torch.Generator().manual_seed(0))
    inputs = [x.numpy() for x in drawn]
    least = dict.fromkeys(BACKENDS, float("inf"))
    for executor in executors.values():
        executor.run(METHOD, inputs, borrowed=True)  # the first call plans memory
    for _ in range(ROUNDS):
        for backend, executor in executors.items():
            started = time.perf_counter()
            ends = started + SECONDS
            while started < ends:
                executor.run(METHOD, inputs, borrowed=True)
                stopped = time.perf_counter()
                least[backend] = min(least[backend], stopped - started)
                started = stopped
    return least


def this_computer() -> str:
    """Name machine and processor, for readers of what was measured."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return ", ".join([platform.machine(), *names[:1]])
