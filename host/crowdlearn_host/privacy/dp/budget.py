"""The budget of a run: what noise its devices need, and what has been spent after so many epochs.

What is accounted for is one sample of one device: of every device by its own number of samples, for a smaller
device draws each of its samples more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .accountant import Schedule, noise_for, own_epsilon


@dataclass(frozen=True)
class Budget:
    """The demand of a run: `epsilon` at `delta`, the fixed `noise` (times the clip), mini-batches of `batch`
    samples and `epochs` epochs. `epsilon` or `noise` may be missing, not both.
    """

    epsilon: float | None
    delta: float
    noise: float | None
    batch: int
    epochs: int

    @property
    def unaffordable(self) -> str:
        """Return in words that not even one epoch is paid for, and what would do."""
        return (
            f"privacy.epsilon = {self.epsilon:g} is spent before the first epoch is over with "
            f"privacy.noise = {self.noise}: set more noise, or leave noise out"
        )

    def steps(self, samples: int) -> int:
        """Return the steps of one pass over `samples` samples."""
        return -(-samples // self.batch)

    def rate(self, samples: int) -> float:
        """Return the probability with which a step draws a sample."""
        return min(1.0, self.batch / samples)

    def noise_of(self, samples: int) -> float:
        """Return the noise of a device with `samples` samples, times the clip."""
        if self.noise is not None:
            return self.noise
        assert self.epsilon is not None
        return _noise(self.epsilon, self.rate(samples), self.steps(samples) * self.epochs, self.delta)

    def spent(self, samples: int, epochs: int) -> float:
        """Return a device's epsilon after `epochs` passes over its `samples` samples."""
        if not samples or not epochs:
            return 0.0
        noise = self.noise_of(samples)
        return _epsilon(Schedule(noise, self.rate(samples), self.steps(samples) * epochs), self.delta)

    def total(self, devices: Sequence[int], epochs: int) -> float:
        """Return the largest epsilon of devices, by their numbers of samples."""
        return max((self.spent(samples, epochs) for samples in {*devices}), default=0.0)

    def affordable(self, devices: Sequence[int]) -> int:
        """Return how many of the epochs the budget pays for."""
        if self.epsilon is None:
            return self.epochs
        low, high = 0, self.epochs
        while low < high:
            middle = (low + high + 1) // 2
            if self.total(devices, middle) <= self.epsilon * (1 + 1e-9):
                low = middle
            else:
                high = middle - 1
        return low


@cache
def _noise(epsilon: float, rate: float, steps: int, delta: float) -> float:
    return noise_for(epsilon, rate, steps, delta)


@cache
def _epsilon(schedule: Schedule, delta: float) -> float:
    return own_epsilon(schedule, delta)
