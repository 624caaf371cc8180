"""Plain SGD of a chain of dense layers on a run's samples, which are taken apart once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.protocol.frames import Floats
from torch import nn

from crowdlearn_host.methods.index_space import FlatEntry
from crowdlearn_host.models.named import build_model
from crowdlearn_host.spec.loss import CROSS_ENTROPY

from .autograd import Totals
from .dense import DenseChain, is_dense_chain
from .rare import apart
from .sparse_inputs import Columns, Indices, TakenApart
from .steps import Fed
from .workload import Pass, Workload


class DenseLearner:
    """A learner that does what ByAutograd does, of the networks and settings that `of` takes."""

    def __init__(self, chain: DenseChain, workload: Workload, samples: TakenApart) -> None:
        self._chain, self._workload, self._samples = chain, workload, samples
        self.vector, self.entered, self.left = chain.vector, chain.entered, chain.left

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry], workload: Workload) -> DenseLearner | None:
        """Return the learner; None if the network is no such chain, or its steps are other than plain."""
        workload = cls.prepared(workload, model)
        if workload.apart is None:
            return None
        chain = DenseChain.of(model, layout, workload.apart.columns)
        return cls(chain, workload, workload.apart) if chain else None

    @classmethod
    def prepared(cls, workload: Workload, model: nn.Module | None = None) -> Workload:
        """Return the workload with its samples taken apart, once for all workers; or as it is, if no such
        learner takes it.
        """
        if workload.apart is not None or not _plain(workload):
            return workload
        if not is_dense_chain(model or build_model(workload.config.model, workload.config.seed)):
            return workload
        train, test = _flattened(workload.inputs), _flattened(workload.test.inputs)
        columns = Columns.of(train)
        return replace(workload, apart=TakenApart(columns, apart(columns, train), apart(columns, test)))

    def train(
        self, passes: Sequence[Pass], rate: float, slots: Floats, accumulated: Floats, updates: int = 0
    ) -> Totals:
        """Train as ByAutograd does; there are no slots and no metrics. Vectors are float32 [floats]."""
        return np.array([self._chain.train(self._samples.train, map(self._fed, passes), rate, accumulated)])

    def average_once(
        self, passes: Sequence[Pass], shares: Sequence[float], rate: float
    ) -> tuple[Floats, Totals]:
        """Return the mean, by shares, of what each pass of one mini-batch alone makes of `vector`, float32
        [floats]; and the loss summed over samples, float64 [1].
        """
        fed = [self._fed(each) for each in passes]
        mean, loss = self._chain.average_once(self._samples.train, fed, shares, rate)
        return mean, np.array([loss])

    def gather_statistics(self, passes: Sequence[Pass], most: int) -> None:
        """Give the batch norms of `vector` the statistics of these dominators: means over the mini-batches of
        `most` of their samples, and over dominators by samples.
        """
        samples = [self._workload.samples(each) for each in passes]
        shares = [own / sum(samples) for own in samples]
        spread = [self._workload.spread(each, most) for each in passes]
        fed = [Fed(rows, self._workload.labels[rows], batches) for rows, batches in spread]
        self._chain.gather_statistics(self._samples.train, fed, shares)

    def classify(self, flat: Floats, tested: range) -> Indices:
        """Return the classes of these test samples, by running statistics. They are int64 [n]."""
        return self._chain.classify(flat, self._samples.test, tested)

    def loss(self, flat: Floats, tested: range) -> float:
        """Raise an error: there are classes, so that no loss is needed. `flat` is float32 [floats]."""
        raise NotImplementedError

    def _fed(self, each: Pass) -> Fed:
        own, batches = self._workload.devices[each.device], self._workload.batches(each)
        # Within one mini-batch the order of samples is only that of sums.
        rows = own if len(batches) == 1 else own[self._workload.order(each)[0]]
        return Fed(rows, self._workload.labels[rows], batches)


def _plain(workload: Workload) -> bool:
    """Return whether the steps of a workload are plain SGD under cross entropy, and nothing else."""
    training = workload.config.training
    plain = training.rule == Sgd() and not (training.staleness or training.warmup)
    whole = not training.micro_batch or workload.least_rows == 1  # only batch norm tells the difference
    rounded = training.wire != "float32" or workload.config.privacy.masked_fraction > 0
    changed = bool(training.augment or workload.config.device_metrics)
    private = workload.config.privacy.private
    usual = plain and training.loss == CROSS_ENTROPY and whole
    return usual and not (rounded or changed or private or workload.on_shares)


def _flattened(inputs: Floats) -> Floats:
    """Flatten to [N, sources], no longer as a map of a file, which compiled loops do not take."""
    return np.asarray(inputs.reshape(len(inputs), -1))
