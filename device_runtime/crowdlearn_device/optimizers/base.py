"""The base of every optimizer: the arrays that it keeps, the numbers of a step, and the step itself.

A step is written once, in operators that NumPy's arrays and PyTorch's tensors have in common. So a program, a
device's own arrays and a simulation compute the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, ClassVar

import numpy as np

RATE = "rate"
"""The name of the number that every step takes: the learning rate, or what an optimizer makes of it."""


@dataclass(frozen=True)
class Optimizer(ABC):
    """A rule by which gradients change weights; it defines what the class of torch.optim does.

    With `clip_norm` the gradients of a mini-batch are scaled first, so that the norm over all weights of the
    network is at most that; 0 leaves them.
    """

    kind: ClassVar[str]
    """The name in configurations and manifests."""
    numbers: ClassVar[tuple[str, ...]] = (RATE,)
    """The names of the numbers that a step takes."""

    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool) and not (isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} of {self.kind} is {value}; give a number from 0")

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """Return the names of the arrays that are kept beside each array of weights; all begin with zeros."""

    @property
    def is_linear(self) -> bool:
        """Return True if the gradient only enters times the rate, so that the loss can be scaled instead."""
        return False

    def of_step(self, rate: float, step: int) -> dict[str, float]:
        """Return the numbers of update `step`, counted from 1, at this learning rate."""
        return {RATE: rate}

    @abstractmethod
    def step(
        self, weights: Any, gradient: Any, kept: Sequence[Any], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Return the new weights, then the new arrays of `slots`; nothing changes in place.

        All are float32 [...] of one shape, and `numbers` are float32 scalars.
        """

    def scaled_step(self, weights: Any, scaled: Any, numbers: Mapping[str, Any]) -> Any:
        """Return the new weights from the gradient times the rate, if the optimizer is linear.

        Both are float32 [...] of one shape.
        """
        raise NotImplementedError


def root(values: Any) -> Any:
    """Return the square root of an array or a tensor, float32 [...]."""
    return values.sqrt() if hasattr(values, "sqrt") else np.sqrt(values)
