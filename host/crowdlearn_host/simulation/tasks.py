"""What a worker is asked to do with its model; what it answers depends on nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

from crowdlearn_device.protocol.frames import Floats

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
    """Devices that each train the whole model from the same weights: one entry of `devices` each."""

    devices: tuple[tuple[Pass, ...], ...]
    weights: Floats
    learning_rate: float

    def run(self, model: GroupModel) -> GroupResult:
        """Return the average of their models, so that one vector travels back for all of them."""
        return model.average(self.devices, self.weights, self.learning_rate)


@dataclass(frozen=True)
class StatisticsTask:
    """Devices that compute the running statistics of batch norms under these weights, each by one pass."""

    passes: tuple[Pass, ...]
    weights: Floats

    def run(self, model: GroupModel) -> GroupResult:
        """Return the average of their models, which differ in the statistics alone."""
        return model.statistics(self.passes, self.weights)


@dataclass(frozen=True)
class EvaluationTask:
    """The test samples [start, stop), to be tested by a model of these weights."""

    weights: Floats
    start: int
    stop: int

    def run(self, model: GroupModel) -> float:
        """Return how many of them it gets right, or its loss summed over them, if there are no classes."""
        return model.tested(self.weights, range(self.start, self.stop))
