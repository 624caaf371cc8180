"""What a worker is asked to do with its model; what it answers depends on nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from crowdlearn_host.simulation.learners.group import GroupModel, GroupResult
from crowdlearn_host.simulation.learners.workload import Pass

Outcome = TypeVar("Outcome", covariant=True)


class Task(Protocol[Outcome]):
    """Something to do, once or, where a worker dies over it, again."""

    def run(self, model: GroupModel) -> Outcome: ...


@dataclass(frozen=True)
class GroupTask:
    """A group's passes from given weights, as GroupModel.train takes them."""

    passes: tuple[Pass, ...]
    weights: Floats
    slots: Floats
    learning_rate: float
    accumulate: bool = True
    updates: int = 0

    def run(self, model: GroupModel) -> GroupResult:
        """Return the group after its passes."""
        return model.train(
            self.passes, self.weights, self.slots, self.learning_rate, self.accumulate, self.updates
        )


@dataclass(frozen=True)
class CohortTask:
    """Devices that each train the whole model from the same weights: one entry of `devices` each.

    With `kept`, float32 [devices, statistics], each has its own running statistics, which lie at `places`,
    int64 [statistics].
    """

    devices: tuple[tuple[Pass, ...], ...]
    weights: Floats
    learning_rate: float
    kept: Floats | None = None
    places: NDArray[np.int64] | None = None

    def run(self, model: GroupModel) -> GroupResult:
        """Return the average of their models, so that one vector travels back for all of them; and, as
        `slots`, the statistics that they keep.
        """
        if self.kept is None or self.places is None:
            return model.average(self.devices, self.weights, self.learning_rate)
        each, kept = [], []
        for own, statistics in zip(self.devices, self.kept, strict=True):
            start = self.weights.copy()
            start[self.places] = statistics
            each.append(model.average([own], start, self.learning_rate))
            kept.append(each[-1].weights[self.places])
        samples = sum(result.samples for result in each)
        total = sum(result.weights * np.float64(result.samples / samples) for result in each)
        shares = [result.samples / samples for result in each]
        loss = sum(result.loss * share for result, share in zip(each, shares, strict=True))
        metrics = np.average([result.metrics for result in each], axis=0, weights=shares)
        return replace(
            each[0],
            weights=np.asarray(total, np.float32),
            slots=np.stack(kept),
            loss=loss,
            samples=samples,
            metrics=tuple(metrics),
        )


@dataclass(frozen=True)
class StatisticsTask:
    """Devices that compute the running statistics of batch norms under these weights, each by `most` of its
    samples. They lie at `places`, int64 [statistics].
    """

    passes: tuple[Pass, ...]
    weights: Floats
    places: NDArray[np.int64]
    most: int

    def run(self, model: GroupModel) -> Floats:
        """Return their average, float32 [statistics]."""
        return model.statistics(self.passes, self.weights, self.places, self.most)


@dataclass(frozen=True)
class EvaluationTask:
    """The test samples [start, stop), to be tested by a model of these weights."""

    weights: Floats
    start: int
    stop: int

    def run(self, model: GroupModel) -> float:
        """Return how many of them it gets right, or its loss summed over them, if there are no classes."""
        return model.tested(self.weights, range(self.start, self.stop))
