"""Training of any network, by the optimizers that devices have."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from crowdlearn_device.optimizers.clipping import clipping, square
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import warmed
from crowdlearn_export.graph.freezing import resting_modules, to_training
from crowdlearn_export.graph.key_biases import still_biases
from crowdlearn_export.graph.unmoved import UnmovedBiases
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.losses.watched import watched_metrics
from numpy.typing import NDArray
from torch import Tensor, nn

from crowdlearn_host.methods.index_space import FlatEntry

from .on_shares import put_on_shares
from .rounding import round_sums
from .sparse_inputs import Indices
from .workload import Pass, Workload

Totals = NDArray[np.float64]
"""The loss and the metrics that devices compute, summed over samples."""
SMALL = 1e-12
"""A divisor in place of 0, if no sample counts."""


class ByAutograd:
    """A network whose floats lie in one vector, in the order of sharing.flat."""

    def __init__(self, model: nn.Module, layout: Sequence[FlatEntry], workload: Workload) -> None:
        self._model, self._workload = model, workload
        wanted = workload.config.training.loss
        self._loss = make_loss(wanted.kind, **wanted.options)
        self._watched = watched_metrics(workload.config.device_metrics)
        still = {} if workload.config.training.rule.is_linear else _still(model, workload)
        self._noise = torch.Generator()
        config = workload.config
        fraction = config.privacy.masked_fraction
        round_sums(model, config.training.wire, workload.crossings, self._noise, fraction)
        put_on_shares(model, workload.on_shares, held=workload.held)
        self._resting = resting_modules(model)
        self.vector = np.empty(layout[-1].stop, np.float32)
        own = dict(model.named_parameters())
        trained = [entry for entry in layout if entry.name in own and own[entry.name].requires_grad]
        self._parameters = [own[entry.name] for entry in trained]
        self._still = [(k, still[entry.name]) for k, entry in enumerate(trained) if entry.name in still]
        self._stretches = _stretches(trained)
        self._optimizer = workload.config.training.rule
        self._around = nullcontext if self._optimizer.is_linear else UnmovedBiases
        for entry in layout:
            view = self._view(self.vector, entry)
            if entry.name in own:
                own[entry.name].data = view
            else:
                owner, _, name = entry.name.rpartition(".")
                model.get_submodule(owner)._buffers[name] = view

    def entered(self, flat: Floats) -> Floats:
        """Return a vector in the order of sharing.flat as one like `vector`: itself. It is float32
        [floats].
        """
        return flat

    def left(self, own: Floats) -> Floats:
        """Return the inverse of `entered`, as a copy. It is float32 [floats]."""
        return own.copy()

    def train(
        self, passes: Sequence[Pass], rate: float, slots: Floats, accumulated: Floats, updates: int = 0
    ) -> Totals:
        """Train through all `passes`, `vector` in place. Return the loss, then the metrics that devices
        compute, each summed over samples, float64 [1 + metrics].

        `slots` change along, float32 [k * floats], after so many `updates`, and |gradient| is added to
        `accumulated`, float32 [floats]; each is empty if there is none.
        """
        to_training(self._model, self._resting)
        self._noise.manual_seed(_noise_seed(self._workload.config.seed, passes[0]))
        kept = [self._stretched(slots[start : start + len(self.vector)]) for start in self._starts(slots)]
        sums = self._stretched(accumulated) if len(accumulated) else []
        totals = np.zeros(1 + len(self._watched))
        for each in passes:
            totals += self._pass(each, rate, kept, sums, updates)
            updates += len(self._workload.batches(each))
        return totals

    def classify(self, flat: Floats, tested: range) -> Indices:
        """Return the classes of these test samples, by running statistics; `vector` becomes `flat`.

        They are int64 [n].
        """
        self._model.eval()
        self.vector[:] = flat
        with torch.no_grad():
            scores = self._model(self._workload.samples_of(self._workload.test.inputs[tested]))
        classes: Indices = scores.argmax(1).numpy()
        return classes

    def loss(self, flat: Floats, tested: range) -> float:
        """Return the loss summed over these test samples, by running statistics; `vector` becomes `flat`.

        `flat` is float32 [floats].
        """
        self._model.eval()
        self.vector[:] = flat
        test = self._workload.test
        with torch.no_grad():
            scores = self._model(self._workload.samples_of(test.inputs[tested]))
            labels = test.labels[tested]
            mean = float(self._loss.reference(scores, torch.from_numpy(labels)))
            return mean * len(tested) / max(self._workload.targets.weight(labels), SMALL)

    def _view(self, vector: Floats, entry: FlatEntry) -> Tensor:
        return torch.from_numpy(vector[entry.start : entry.stop]).view(entry.shape)

    def _starts(self, slots: Floats) -> range:
        return range(0, len(slots), len(self.vector))

    def _stretched(self, vector: Floats) -> list[Tensor]:
        """Return what a vector like `vector` has of the trained parameters, in stretches."""
        return [torch.from_numpy(vector[start:stop]) for start, stop, _ in self._stretches]

    def _pass(
        self, each: Pass, rate: float, kept: list[list[Tensor]], sums: list[Tensor], updates: int
    ) -> Totals:
        """Train through one pass. With staleness the model lags one update behind the newest weights."""
        workload, training = self._workload, self._workload.config.training
        weights = self._stretched(self.vector)
        newest = [part.clone() for part in weights] if training.staleness else weights
        samples, targets, batches = workload.fed(each)
        inputs, labels = workload.samples_of(samples), torch.from_numpy(targets)
        totals = np.zeros(1 + len(self._watched))
        for number, batch in enumerate(batches, updates + 1):
            metrics, gradients = self._gradients(workload.parts(batch), inputs, labels)
            totals += metrics
            slopes = self._joined(gradients)
            if training.staleness:
                torch._foreach_copy_(weights, newest)
            self._descend(newest, slopes, kept, warmed(rate, number, training.warmup), number)
            if sums:
                torch._foreach_abs_(slopes)
                torch._foreach_add_(sums, slopes)
        if training.staleness:
            torch._foreach_copy_(weights, newest)
        return totals

    def _joined(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Join gradients by parameter into those of stretches."""
        parts = iter(gradients)
        return [torch.cat([next(parts).reshape(-1) for _ in range(count)]) for *_, count in self._stretches]

    def _descend(
        self,
        weights: Sequence[Tensor],
        slopes: Sequence[Tensor],
        kept: Sequence[Sequence[Tensor]],
        rate: float,
        number: int,
    ) -> None:
        """Update `number`, in place."""
        optimizer = self._optimizer
        numbers = {name: np.float32(x).item() for name, x in optimizer.of_step(rate, number).items()}
        factor = 1.0
        if optimizer.clip_norm:
            factor = clipping([square(slope.numpy() for slope in slopes)], optimizer.clip_norm)
        for at, (weight, slope) in enumerate(zip(weights, slopes, strict=True)):
            arrays = weight, *(slot[at] for slot in kept)
            step = optimizer.step(weight, slope if factor == 1 else slope * factor, arrays[1:], numbers)
            for old, new in zip(arrays, step, strict=True):
                old.copy_(new)

    def _gradients(
        self, parts: Sequence[slice], inputs: Tensor, labels: Tensor
    ) -> tuple[Totals, list[Tensor]]:
        """Return the loss and the metrics of a mini-batch, summed over its samples, and the gradients of the
        mean loss, part by part.
        """
        rows = parts[-1].stop - parts[0].start
        counted = labels[parts[0].start : parts[-1].stop].numpy()
        weight = max(self._workload.targets.weight(counted), SMALL)
        totals, gradients = np.zeros(1 + len(self._watched)), list[Tensor]()
        for part in parts:
            with self._around():
                scores = self._model(inputs[part])
            loss = self._loss.reference(scores, labels[part])
            totals += [loss.item() * rows / weight, *self._metrics(scores.detach(), labels[part])]
            each = torch.autograd.grad(loss / weight, self._parameters, materialize_grads=True)
            for k, rows in self._still:
                each[k][[*rows]] = 0
            gradients = list(torch._foreach_add(gradients, each)) if gradients else list(each)
        return totals, gradients

    def _metrics(self, scores: Tensor, targets: Tensor) -> list[float]:
        """Return the metrics that devices compute, summed over samples: scores float32 [B, ...], targets
        [B, ...].
        """
        return [float(metric.of(scores, targets).sum()) for metric in self._watched]


def _still(model: nn.Module, workload: Workload) -> dict[str, tuple[int, ...]]:
    """Return the rows of biases that get no gradient, by name, as programs have them."""
    tried = copy.deepcopy(model).train()
    return still_biases(tried, workload.samples_of(workload.test.inputs[:2]))


def _stretches(trained: Sequence[FlatEntry]) -> list[tuple[int, int, int]]:
    """Return begin, end and number of parameters that lie side by side, of each such stretch."""
    found: list[tuple[int, int, int]] = []
    for entry in trained:
        if found and found[-1][1] == entry.start:
            start, _, count = found[-1]
            found[-1] = start, entry.stop, count + 1
        else:
            found.append((entry.start, entry.stop, 1))
    return found


def _noise_seed(seed: int, first: Pass) -> int:
    """Return a seed of its own for each task, so that its rounding does not depend on who ran what before."""
    return int(np.random.SeedSequence((seed, first.epoch, first.device)).generate_state(1)[0])
