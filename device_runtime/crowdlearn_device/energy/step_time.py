"""How long a device takes for one training step of a slice program, for the planner to know."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

import numpy as np

from crowdlearn_device.program.executor import Executor, ProgramStore
from crowdlearn_device.program.manifest import LOSS, TRAIN_STEP, Manifest, Port
from crowdlearn_device.protocol.frames import Array

WARM_UP_STEPS = 2


@dataclass(frozen=True)
class StepTime:
    """Steps of `batch` samples that were run, and the seconds they took together."""

    steps: int
    batch: int
    seconds: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def measure_step(store: ProgramStore, sha256: str, seconds: float) -> StepTime:
    """Run the methods of a program once a step, with its largest batch, until `seconds` are over.

    Raises ProgramError if the program is absent, damaged, or cannot be run.
    """
    manifest = store.manifest(sha256)
    executor = store.executor(manifest)
    for _ in range(WARM_UP_STEPS):
        _step(executor, manifest)
    steps = 0
    started = time.monotonic()
    while steps == 0 or time.monotonic() - started < seconds:
        _step(executor, manifest)
        steps += 1
    return StepTime(steps, manifest.max_batch, time.monotonic() - started)


def _step(executor: Executor, manifest: Manifest) -> None:
    names = {method.name for method in manifest.methods}
    for method in manifest.methods:
        if method.name == LOSS and TRAIN_STEP in names:
            continue  # a step of the whole network runs one or the other
        executor.run(method.name, [_zeros(port, manifest.max_batch) for port in method.inputs])


def _zeros(port: Port, batch: int) -> Array:
    shape = [batch if size == "B" else int(size) for size in port.shape]
    return np.zeros(shape, np.dtype(port.dtype))
