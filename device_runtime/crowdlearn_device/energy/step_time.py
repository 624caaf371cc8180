"""How long a device takes for one training step of a slice program, stage by stage, and in which memory."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from crowdlearn_device.program.executor import Executor, ProgramStore
from crowdlearn_device.program.isolation.isolated import IsolatedExecutor
from crowdlearn_device.program.kernels import ChoosingExecutor, KernelChoice, zeros_at
from crowdlearn_device.program.manifest import LOSS, TRAIN_STEP, Manifest
from crowdlearn_device.protocol.frames import Array

WARM_UP_STEPS = 2
READY = "ready"
"""The line that a device prints when it rests before the first step."""


@dataclass(frozen=True)
class StepTime:
    """Steps of `batch` samples that were run, and the seconds they took together; `stages` tells the seconds
    of each method, `memory` the most bytes that the process has held, libraries included. `kernels` are the
    device's choices between methods of two forms; None if the program has none.
    """

    steps: int
    batch: int
    seconds: float
    stages: dict[str, float] = field(default_factory=dict)
    memory: int = 0
    kernels: KernelChoice | None = None

    def to_json(self) -> str:
        kernels = None if self.kernels is None else json.loads(self.kernels.to_json())
        return json.dumps({**asdict(self), "kernels": kernels})


def measure_step(
    store: ProgramStore,
    sha256: str,
    seconds: float,
    warmed_up: Callable[[], None] = lambda: None,
    finished: Callable[[StepTime], None] = lambda timed: None,
) -> StepTime:
    """Run the methods of a program once a step, with its largest batch, until `seconds` are over; call
    `warmed_up` where the time begins, and `finished` where it ends, while the program is still there.

    Raises ProgramError if the program is absent, damaged, or cannot be run.
    """
    manifest = store.manifest(sha256)
    executor, kernels = store.executor(manifest), None
    inner = executor
    if isinstance(executor, ChoosingExecutor):
        inner, kernels = executor.inner, executor.choice
    inputs = _inputs(manifest, executor)
    stages = dict.fromkeys(inputs, 0.0)
    for _ in range(WARM_UP_STEPS):
        _step(executor, inputs, dict(stages))
    steps = 0
    warmed_up()
    started = time.monotonic()
    while steps == 0 or time.monotonic() - started < seconds:
        _step(executor, inputs, stages)
        steps += 1
    taken = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if isinstance(inner, IsolatedExecutor):
        memory += inner.most_memory()
    timed = StepTime(steps, manifest.max_batch, taken, stages, memory, kernels)
    finished(timed)
    return timed


def _inputs(manifest: Manifest, executor: Executor) -> dict[str, list[Array]]:
    """Return the methods that a step runs, each once, with zeros to run them on; state lies where the program
    reaches it, as in training.
    """
    names = {method.name for method in manifest.methods}
    return {
        method.name: [zeros_at(port, manifest.max_batch, executor) for port in method.inputs]
        for method in manifest.methods
        # A step of the whole network runs one or the other.
        if not (method.name == LOSS and TRAIN_STEP in names)
    }


def _step(executor: Executor, inputs: dict[str, list[Array]], stages: dict[str, float]) -> None:
    for name, arrays in inputs.items():
        began = time.perf_counter()
        executor.run(name, arrays)
        stages[name] += time.perf_counter() - began
