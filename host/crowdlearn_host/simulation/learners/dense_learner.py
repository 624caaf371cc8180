"""Plain SGD of a chain of dense layers on a run's samples, which are taken apart once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.frames import Floats
from torch import nn

from crowdlearn_host.methods.index_space import FlatEntry
from crowdlearn_host.spec.loss import CROSS_ENTROPY

from .autograd import Totals
from .dense import DenseChain
from .sparse_inputs import Indices, SparseInputs
from .steps import Fed
from .workload import Pass, Workload


class DenseLearner:
    """A learner that does what ByAutograd does, of the networks and settings that `of` takes."""

    def __init__(self, chain: DenseChain, workload: Workload) -> None:
        self._chain, self._workload = chain, workload
        self.vector, self.entered, self.left = chain.vector, chain.entered, chain.left
        self._inputs = _flattened(workload.inputs)
        self._apart: dict[int, SparseInputs] = {}
        self._tested: SparseInputs | None = None

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry], workload: Workload) -> DenseLearner | None:
        """Return the learner; None if the network is no such chain, or its steps are other than plain."""
        training = workload.config.training
        plain = training.rule == Sgd() and not (training.staleness or training.warmup)
        whole = not training.micro_batch or workload.least_rows == 1  # only batch norm tells the difference
        plain = plain and training.loss == CROSS_ENTROPY
        rounded = training.wire != "float32" or workload.config.privacy.masked_fraction > 0
        changed = bool(training.augment or workload.config.device_metrics)
        if not plain or rounded or not whole or changed or workload.on_shares:
            return None
        chain = DenseChain.of(model, layout, _flattened(workload.inputs))
        return cls(chain, workload) if chain else None

    def train(
        self, passes: Sequence[Pass], rate: float, slots: Floats, accumulated: Floats, updates: int = 0
    ) -> Totals:
        """Train as ByAutograd does; there are no slots and no metrics. Vectors are float32 [floats]."""
        return np.array([self._chain.train(map(self._fed, passes), rate, accumulated)])

    def average_once(self, passes: Sequence[Pass], shares: Sequence[float], rate: float) -> Totals:
        """Move `vector` to the mean, by shares, of what each pass of one mini-batch alone makes of it. Return
        the loss summed over samples, float64 [1].
        """
        return np.array([self._chain.average_once(list(map(self._fed, passes)), shares, rate)])

    def gather_statistics(self, passes: Sequence[Pass], most: int) -> None:
        """Give the batch norms of `vector` the statistics of these passes: means over the first mini-batches,
        `most` of them, and over passes by samples.
        """
        samples = [self._workload.samples(each) for each in passes]
        shares = (own / sum(samples) for own in samples)
        begun = (self._fed(each).begun(most) for each in passes)
        self._chain.gather_statistics(zip(begun, shares, strict=True))

    def classify(self, flat: Floats, tested: range) -> Indices:
        """Return the classes of these test samples, by running statistics. They are int64 [n]."""
        if self._tested is None:
            self._tested = self._chain.columns.apart(_flattened(self._workload.test.inputs))
        return self._chain.classify(flat, self._tested, tested)

    def loss(self, flat: Floats, tested: range) -> float:
        """Raise an error: there are classes, so that no loss is needed. `flat` is float32 [floats]."""
        raise NotImplementedError

    def _fed(self, each: Pass) -> Fed:
        own, columns = self._workload.devices[each.device], self._chain.columns
        apart = self._apart.get(each.device)
        if apart is None:
            apart = columns.apart(self._inputs[own])
        if not columns.all_common:  # lists are small, and take longer to make than rows to copy
            self._apart[each.device] = apart
        rows, batches = self._workload.order(each)
        return Fed(apart, rows, self._workload.labels[own[rows]], batches)


def _flattened(inputs: Floats) -> Floats:
    """Flatten to [N, sources], no longer as a map of a file, which compiled loops do not take."""
    return np.asarray(inputs.reshape(len(inputs), -1))
