"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .base import RATE, Optimizer


@dataclass(frozen=True)
class Sgd(Optimizer):
    """Descent with momentum, by Nesterov if asked, as torch.optim.SGD defines it without dampening."""

    kind: ClassVar[str] = "sgd"

    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}; give a number below 1")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov goes with momentum; give a momentum above 0")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    @property
    def is_linear(self) -> bool:
        return not self.momentum

    def step(
        self, weights: Any, gradient: Any, kept: Sequence[Any], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        if self.weight_decay:
            gradient = gradient + weights * self.weight_decay
        if not self.momentum:
            return (weights - gradient * numbers[RATE],)
        (velocity,) = kept
        velocity = velocity * self.momentum + gradient
        direction = gradient + velocity * self.momentum if self.nesterov else velocity
        return weights - direction * numbers[RATE], velocity

    def scaled_step(self, weights: Any, scaled: Any, numbers: Mapping[str, Any]) -> Any:
        if self.weight_decay:
            weights = weights * (1 - numbers[RATE] * self.weight_decay)
        return weights - scaled
