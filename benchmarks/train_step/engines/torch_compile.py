"""PyTorch compiled by Inductor: what is possible on this computer; no phone has its compiler.

Its memory counts the compiler, too.
"""

from __future__ import annotations

from benchmarks.train_step.engine import Given

from .eager import Eager


class Compiled(Eager):
    def __init__(self, given: Given) -> None:
        super().__init__(given)
        self._model.compile()


load = Compiled
