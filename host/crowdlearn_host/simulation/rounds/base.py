"""What a round gives, whatever the strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crowdlearn_host.simulation.learners.group import GroupResult
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.state import RunState, diverged
from crowdlearn_host.simulation.workers import Workers


@dataclass(frozen=True)
class Learned:
    """The samples of a group or a cohort, and the means over them of the loss and of devices' metrics."""

    samples: int
    loss: float
    metrics: tuple[float, ...]

    @classmethod
    def of(cls, result: GroupResult) -> Learned:
        """Return them from a result."""
        return cls(result.samples, result.loss, result.metrics)


@dataclass(frozen=True)
class Trained:
    """The state after a round, before it is evaluated.

    `spent` are the bytes by purpose.
    """

    state: RunState
    learned: Sequence[Learned]
    spent: dict[str, int]


Round = Callable[[Setting, Workers, RunState, int], Trained]
"""A function that trains one round, by its number, from a state."""


def check_finite(result: GroupResult, devices: Sequence[int], number: int) -> None:
    """Raise TrainingError if a result is not finite after the passes of these devices."""
    if not result.finite:
        text = ", ".join(map(str, devices))
        raise diverged(number, f"weights or loss are not finite after the passes of devices {text}")
