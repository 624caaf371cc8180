"""What a group computes between two sharings: SGD, pass by pass.

Slicing changes where a number is computed, not the number, so a simulated group is one model trained by its
dominators in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Protocol

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.methods.index_space import flat_layout, flatten
from crowdlearn_host.models.named import build_model

from . import kernels
from .autograd import ByAutograd
from .dense_learner import DenseLearner
from .private import ByDPSGD
from .sparse_inputs import Indices
from .workload import Pass, Workload


@dataclass(frozen=True)
class GroupResult:
    """Weights, momentum and |gradient| sums after the passes, each empty if there is none."""

    weights: Floats
    momentum: Floats
    accumulated: Floats
    loss: float
    samples: int

    @property
    def finite(self) -> bool:
        """True if training has not diverged."""
        return isfinite(self.loss) and bool(np.isfinite(self.weights).all())


class Learner(Protocol):
    """A network whose floats lie in `vector`, in an order of its own; see ByAutograd."""

    vector: Floats

    def entered(self, flat: Floats) -> Floats: ...

    def left(self, own: Floats) -> Floats: ...

    def train(self, passes: Sequence[Pass], rate: float, momentum: Floats, accumulated: Floats) -> float: ...

    def classify(self, flat: Floats, tested: range) -> Indices: ...

    def loss(self, flat: Floats, tested: range) -> float: ...


class GroupModel:
    """The model of one group at a time; weights go in and out as a vector, in the order of sharing.flat."""

    def __init__(self, workload: Workload) -> None:
        model = build_model(workload.config.model, workload.config.seed)
        layout = flat_layout(model.state_dict())
        self._workload = workload
        self._frozen = [slice(e.start, e.stop) for e in layout if e.name in workload.frozen]
        self._learner: Learner
        if workload.config.privacy.private:
            self._learner = ByDPSGD(model, layout, workload)
        else:
            dense = DenseLearner.of(model, layout, workload)
            self._learner = dense or ByAutograd(model, layout, workload)

    def train(
        self, passes: Sequence[Pass], weights: Floats, momentum: Floats, rate: float, accumulate: bool
    ) -> GroupResult:
        """A group after its passes, from these weights and this momentum (empty if training has none).

        `accumulate` asks for |gradient| summed per weight. Vectors are float32 [floats].
        """
        learner, samples = self._learner, sum(map(self._workload.samples, passes))
        learner.vector[:] = learner.entered(weights)
        velocity = momentum.copy()
        accumulated = np.zeros(len(weights) if accumulate else 0, np.float32)
        loss = learner.train(passes, rate, velocity, accumulated) / max(samples, 1)
        sums = learner.left(accumulated) if accumulate else accumulated
        return GroupResult(learner.left(learner.vector), velocity, sums, loss, samples)

    def average(self, devices: Sequence[Sequence[Pass]], weights: Floats, rate: float) -> GroupResult:
        """The mean, by samples, of the models that each of the devices trains alone from these weights.

        Vectors are float32 [floats].
        """
        learner, samples = self._learner, [sum(map(self._workload.samples, passes)) for passes in devices]
        momentum, nothing = bool(self._workload.config.training.momentum), np.zeros(0, np.float32)
        start, loss = learner.entered(weights), 0.0
        total = np.zeros_like(start)
        for passes, own in zip(devices, samples, strict=True):
            learner.vector[:] = start
            loss += learner.train(passes, rate, np.zeros(len(start) * momentum, np.float32), nothing)
            kernels.move(total, learner.vector, nothing, np.float32(own / sum(samples)), np.float32(0))
        for part in self._frozen:
            total[part] = start[part]  # as it is: a mean of equal numbers may be rounded
        return GroupResult(learner.left(total), nothing, nothing, loss / sum(samples), sum(samples))

    def tested(self, weights: Floats, tested: range) -> float:
        """Return how many of these test samples a model of these weights gets right, by its running
        statistics; or its loss summed over them, if there are no classes.
        `weights` are float32 [floats].
        """
        if not self._workload.by_classes:
            return self._learner.loss(weights, tested)
        return float((self._learner.classify(weights, tested) == self._workload.test.labels[tested]).sum())


def warm_up(workload: Workload) -> None:
    """Train and classify a few samples, so that everything is loaded and compiled before time is taken."""
    rows = 2 * max(workload.config.training.batch, workload.least_rows)
    few = replace(workload, devices=(workload.devices[0][:rows],))
    model = GroupModel(few)
    weights = flatten(build_model(workload.config.model, workload.config.seed).state_dict())
    momentum = np.zeros_like(weights) if workload.config.training.momentum else np.zeros(0, np.float32)
    model.train((Pass(0, 0),), weights, momentum, 0.0, accumulate=True)
    model.tested(weights, range(min(len(workload.test), rows)))
