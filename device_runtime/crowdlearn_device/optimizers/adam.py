"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

from .base import RATE, Optimizer, root

ROOT, LEFT = "root", "left"


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moments, as torch.optim.Adam defines them; `beta1` and `beta2` are its betas."""

    kind: ClassVar[str] = "adam"
    numbers: ClassVar[tuple[str, ...]] = (RATE, ROOT)

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta1 >= 1 or self.beta2 >= 1:
            raise ValueError(f"betas are {self.beta1} and {self.beta2}; give numbers below 1")

    @property
    def slots(self) -> tuple[str, ...]:
        return ("first_moment", "second_moment")

    def of_step(self, rate: float, step: int) -> dict[str, float]:
        """Return the numbers of update `step`: with them moments that began with zeros are means."""
        return {RATE: rate / (1 - self.beta1**step), ROOT: 1 / sqrt(1 - self.beta2**step)}

    def step(
        self, weights: Any, gradient: Any, kept: Sequence[Any], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        if self.weight_decay:
            gradient = gradient + weights * self.weight_decay
        return self._moved(weights, gradient, kept, numbers)

    def _moved(
        self, weights: Any, gradient: Any, kept: Sequence[Any], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        first, second = kept
        first = first * self.beta1 + gradient * (1 - self.beta1)
        second = second * self.beta2 + gradient * gradient * (1 - self.beta2)
        scale = root(second) * numbers[ROOT] + self.eps
        return weights - first / scale * numbers[RATE], first, second


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam whose weights decay by themselves, as torch.optim.AdamW defines it."""

    kind: ClassVar[str] = "adamw"
    numbers: ClassVar[tuple[str, ...]] = (RATE, ROOT, LEFT)

    def of_step(self, rate: float, step: int) -> dict[str, float]:
        """Return the numbers of update `step`, and the share of the weights that decay leaves."""
        return {**super().of_step(rate, step), LEFT: 1 - rate * self.weight_decay}

    def step(
        self, weights: Any, gradient: Any, kept: Sequence[Any], numbers: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        return self._moved(weights * numbers[LEFT], gradient, kept, numbers)
