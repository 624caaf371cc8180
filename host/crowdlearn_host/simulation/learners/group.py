"""What a group computes between two sharings, pass by pass.

Slicing changes where a number is computed, not the number, so a simulated group is one model trained by its
dominators in turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Protocol

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.freezing import resting_modules
from torch import nn

from crowdlearn_host.methods.index_space import flat_layout, flatten, unflatten
from crowdlearn_host.models.named import build_model

from . import kernels
from .autograd import ByAutograd, Totals
from .dense_learner import DenseLearner
from .private import ByDPSGD
from .sparse_inputs import Indices
from .workload import Pass, Workload


@dataclass(frozen=True)
class GroupResult:
    """The weights, what the optimizer keeps, and |gradient| sums after the passes, each empty if there is
    none; and how many updates the weights have had. `loss` and `metrics`, those that devices compute, are
    means over samples.
    """

    weights: Floats
    slots: Floats
    accumulated: Floats
    loss: float
    samples: int
    updates: int = 0
    metrics: tuple[float, ...] = ()

    @property
    def finite(self) -> bool:
        """Return True if training has not diverged."""
        return isfinite(self.loss) and bool(np.isfinite(self.weights).all())


class Learner(Protocol):
    """A network whose floats lie in `vector`, in an order of its own; see ByAutograd."""

    vector: Floats

    def entered(self, flat: Floats) -> Floats: ...

    def left(self, own: Floats) -> Floats: ...

    def train(
        self, passes: Sequence[Pass], rate: float, slots: Floats, accumulated: Floats, updates: int = 0
    ) -> Totals: ...

    def classify(self, flat: Floats, tested: range) -> Indices: ...

    def loss(self, flat: Floats, tested: range) -> float: ...


class GroupModel:
    """The model of one group at a time; weights go in and out as a vector, in the order of sharing.flat."""

    def __init__(self, workload: Workload) -> None:
        model = build_model(workload.config.model, workload.config.seed)
        layout = flat_layout(model.state_dict(), workload.unused)
        self._workload = workload
        self._frozen = [slice(e.start, e.stop) for e in layout if e.name in workload.frozen]
        self._learner: Learner
        if workload.config.privacy.private:
            self._learner = ByDPSGD(model, layout, workload)
        else:
            dense = DenseLearner.of(model, layout, workload)
            self._learner = dense or ByAutograd(model, layout, workload)

    def train(
        self,
        passes: Sequence[Pass],
        weights: Floats,
        slots: Floats,
        rate: float,
        accumulate: bool,
        updates: int = 0,
    ) -> GroupResult:
        """Return a group after its passes, from these weights and what the optimizer keeps after so many
        `updates` (empty if it keeps nothing).

        `accumulate` asks for |gradient| summed per weight. Vectors are float32 [floats].
        """
        learner, samples = self._learner, sum(map(self._workload.samples, passes))
        learner.vector[:] = learner.entered(weights)
        kept = slots.copy()
        accumulated = np.zeros(len(weights) if accumulate else 0, np.float32)
        loss, *metrics = learner.train(passes, rate, kept, accumulated, updates) / max(samples, 1)
        updates += sum(len(self._workload.batches(each)) for each in passes)
        sums = learner.left(accumulated) if accumulate else accumulated
        return GroupResult(
            learner.left(learner.vector), kept, sums, float(loss), samples, updates, tuple(metrics)
        )

    def average(self, devices: Sequence[Sequence[Pass]], weights: Floats, rate: float) -> GroupResult:
        """Return the mean, by samples, of the models that each of the devices trains alone from these
        weights.

        Vectors are float32 [floats].
        """
        learner, samples = self._learner, [sum(map(self._workload.samples, passes)) for passes in devices]
        slots, nothing = len(self._workload.config.training.rule.slots), np.zeros(0, np.float32)
        start, sums = learner.entered(weights), np.zeros(1 + len(self._workload.config.device_metrics))
        shares = [own / sum(samples) for own in samples]
        if (once := self._average_once(devices, shares, start, rate)) is not None:
            total, sums = once
        else:
            total = np.zeros_like(start)
            for passes, share in zip(devices, shares, strict=True):
                learner.vector[:] = start
                sums += learner.train(passes, rate, np.zeros(len(start) * slots, np.float32), nothing)
                kernels.move(total, learner.vector, nothing, np.float32(share), np.float32(0))
        for part in self._frozen:
            total[part] = start[part]  # as it is: a mean of equal numbers may be rounded
        loss, *metrics = sums / sum(samples)
        left = learner.left(total)
        return GroupResult(left, nothing, nothing, float(loss), sum(samples), metrics=tuple(metrics))

    def _average_once(
        self, devices: Sequence[Sequence[Pass]], shares: Sequence[float], start: Floats, rate: float
    ) -> tuple[Floats, Totals] | None:
        """Return the mean of devices that take one step each, and their totals; None if some take more, or
        the learner has no way to compute them together.
        """
        learner, batch = self._learner, self._workload.config.training.batch
        once = all(len(own) == 1 and self._workload.samples(own[0]) <= batch for own in devices)
        if not isinstance(learner, DenseLearner) or not once:
            return None
        learner.vector[:] = start
        return learner.average_once([passes[0] for passes in devices], shares, rate)

    def statistics(self, passes: Sequence[Pass], weights: Floats, places: Indices, most: int) -> Floats:
        """Return the weights at `places` of the mean, by samples, of a model of these weights whose batch
        norms have each dominator's statistics: means over the mini-batches of `most` of its samples, nothing
        being dropped.

        `weights` are float32 [floats], places int64 [n], those of statistics alone.
        """
        config, samples = self._workload.config, [self._workload.samples(each) for each in passes]
        if isinstance(self._learner, DenseLearner):
            self._learner.vector[:] = self._learner.entered(weights)
            self._learner.gather_statistics(passes, most)
            return self._learner.vector[places]  # its own order is one of weights, not of statistics
        model = build_model(config.model, config.seed)
        model.load_state_dict(unflatten(weights, model.state_dict(), self._workload.unused))
        model.eval()
        resting = resting_modules(model)
        norms = [
            module
            for name, module in model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and name not in resting
        ]
        total = np.zeros(len(weights))
        for each, count in zip(passes, samples, strict=True):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a mean over all batches
                norm.train()
            at, batches = self._workload.spread(each, most)
            inputs = self._workload.samples_of(self._workload.inputs_at(each, at, batches))
            with torch.no_grad():
                for batch in batches:
                    model(inputs[batch])
            total += flatten(model.state_dict(), self._workload.unused) * np.float64(count / sum(samples))
        return total.astype(np.float32)[places]

    def tested(self, weights: Floats, tested: range) -> float:
        """Return how many of these test samples a model of these weights gets right, by its running
        statistics; or its loss summed over them, if there are no classes.
        `weights` are float32 [floats].
        """
        if not self._workload.by_classes:
            return self._learner.loss(weights, tested)
        return float(
            (
                self._learner.classify(weights, tested)
                == self._workload.test.labels[tested.start : tested.stop]
            ).sum()
        )


def warm_up(workload: Workload) -> None:
    """Train and classify a few samples, so that everything is loaded and compiled before time is taken."""
    rows = 2 * max(workload.config.training.batch, workload.least_rows)
    few = replace(workload, devices=(workload.devices[0][:rows],))
    model = GroupModel(few)
    state = build_model(workload.config.model, workload.config.seed).state_dict()
    weights = flatten(state, workload.unused)
    slots = np.zeros(len(weights) * len(workload.config.training.rule.slots), np.float32)
    model.train((Pass(0, 0),), weights, slots, 0.0, accumulate=True)
    model.tested(weights, range(min(len(workload.test), rows)))
