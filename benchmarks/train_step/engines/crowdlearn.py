"""Ours: the compiled step on ExecuTorch."""

from __future__ import annotations

import numpy as np
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from executorch.extension.pybindings import _portable_lib

from benchmarks.train_step.engine import Array, Given

WHOLE = np.array(1, np.float32)
"""The learning rate at which a step subtracts the gradient."""


class Compiled:
    def __init__(self, given: Given, program: str = "program") -> None:
        torch.set_num_threads(given.threads)
        _portable_lib._unsafe_reset_threadpool(given.threads)
        self._start = dict(np.load(given.folder / "state.npz"))
        self._state = [value.copy() for value in self._start.values()]
        self._batch = given.data()
        self._rate = np.array(given.rate, np.float32)
        self._executor = ExecuTorchExecutor((given.folder / f"{program}.pte").read_bytes())
        self._entering = [array.copy() for array in self._batch]
        self._inputs = [*self._state, *self._entering, self._rate]
        self._executor.hold(self._inputs)

    def step(self) -> float:
        for place, array in zip(self._entering, self._batch, strict=True):
            place[...] = array  # the next batch would be another one
        (loss,) = self._executor.run("train_step", self._inputs, borrowed=True)
        return float(loss)

    def gradients(self) -> dict[str, Array]:
        """Those of a second call: the first must not leave anything behind."""
        for _ in range(2):
            new = [value.copy() for value in self._start.values()]
            self._executor.run("train_step", [*new, *self._batch, WHOLE])
        return {
            name: old.astype(np.float64) - value
            for (name, old), value in zip(self._start.items(), new, strict=True)
        }


load = Compiled
