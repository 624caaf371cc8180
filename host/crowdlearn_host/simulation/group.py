"""What a group computes between two sharings: SGD, pass by pass.

Slicing changes where a number is computed, not the number, so a simulated group is one model trained by its
dominators in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import isfinite

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.dataset import Dataset
from crowdlearn_device.schedule import mini_batches, pass_order
from crowdlearn_device.wire import Floats
from crowdlearn_export.freezing import resting_modules, to_training
from threadpoolctl import ThreadpoolController

from ..models import build_model
from ..sharing.flat import flat_layout
from . import loops
from .config import SimulationConfig
from .dense import DenseChain, Fed
from .samples import Columns, Indices, Samples
from .wire import Crossing, round_sums


@dataclass(frozen=True)
class Workload:
    """What stays the same in a run: samples, labels int64 [N], the positions of each device's samples, the
    test data, what travels between a group's pieces, the samples that a mini-batch has at least, and the
    names of the arrays that are frozen.
    """

    config: SimulationConfig
    inputs: Floats
    labels: Indices
    devices: tuple[Indices, ...]
    test: Dataset
    crossings: tuple[Crossing, ...] = ()
    least_rows: int = 1
    frozen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pass:
    """One dominator's data, once; `epoch` draws the order of its samples."""

    device: int
    epoch: int


@dataclass(frozen=True)
class GroupResult:
    """Weights, momentum and |gradient| sums after the passes, each empty where there is none."""

    weights: Floats
    momentum: Floats
    accumulated: Floats
    loss: float
    samples: int

    @property
    def finite(self) -> bool:
        """Whether training has not diverged."""
        return isfinite(self.loss) and bool(np.isfinite(self.weights).all())


class GroupModel:
    """A model whose floats lie in one vector, so that weights go in and out as a copy."""

    def __init__(self, workload: Workload) -> None:
        config = workload.config
        self._workload = workload
        self._model = build_model(config.model, config.seed)
        self._training = config.training
        self._noise = torch.Generator()
        round_sums(self._model, config.training.wire, workload.crossings, self._noise)
        layout = flat_layout(self._model.state_dict())
        self._vector = torch.empty(layout[-1].stop)
        own = dict(self._model.named_parameters())
        trained = {name: parameter for name, parameter in own.items() if parameter.requires_grad}
        self._parameters = [trained[entry.name] for entry in layout if entry.name in trained]
        self._spans = [(e.start, e.stop, e.shape) for e in layout if e.name in trained]
        self._frozen = [slice(e.start, e.stop) for e in layout if e.name in workload.frozen]
        self._resting = resting_modules(self._model)
        for entry in layout:
            view = self._vector[entry.start : entry.stop].view(entry.shape)
            if entry.name in own:
                own[entry.name].data = view
            else:
                owner, _, name = entry.name.rpartition(".")
                self._model.get_submodule(owner)._buffers[name] = view
        training = config.training
        more = training.momentum or training.weight_decay or training.staleness
        plain = not more and training.wire == "float32"
        self._inputs = np.asarray(workload.inputs.reshape(len(workload.inputs), -1))
        self._chain = DenseChain.of(self._model, layout, self._inputs) if plain else None
        self._floats: Floats = self._chain.vector if self._chain else self._vector.numpy()
        self._apart: dict[int, Samples] = {}
        self._tested: Samples | None = None

    def train(
        self, passes: Sequence[Pass], weights: Floats, momentum: Floats, rate: float, accumulate: bool
    ) -> GroupResult:
        """A group after its passes, from these weights and this momentum (empty where training has none).

        Vectors are in the order of sharing.flat. `accumulate` asks for |gradient| summed per weight.
        """
        samples = self._samples_of(passes)
        self._floats[:] = self._entered(weights)
        velocity = momentum.copy()
        accumulated = np.zeros(len(self._floats) if accumulate else 0, np.float32)
        loss = self._passes(passes, rate, velocity, accumulated) / max(samples, 1)
        sums = self._left(accumulated) if accumulate else accumulated
        return GroupResult(self._left(self._floats), velocity, sums, loss, samples)

    def average(self, devices: Sequence[Sequence[Pass]], weights: Floats, rate: float) -> GroupResult:
        """The mean, by samples, of the models that each of the devices trains alone from these weights."""
        samples = [self._samples_of(passes) for passes in devices]
        loss, nothing = 0.0, np.zeros(0, np.float32)
        start = self._entered(weights)
        total = np.zeros_like(start)
        for passes, own in zip(devices, samples, strict=True):
            self._floats[:] = start
            velocity = np.zeros(len(start) if self._training.momentum else 0, np.float32)
            loss += self._passes(passes, rate, velocity, nothing)
            loops.move(total, self._floats, nothing, np.float32(own / sum(samples)), np.float32(0))
        for part in self._frozen:
            total[part] = start[part]  # as it is: a mean of equal numbers may be rounded
        return GroupResult(self._left(total), nothing, nothing, loss / sum(samples), sum(samples))

    def right(self, weights: Floats, tested: range) -> int:
        """How many of these test samples a model of these weights gets right, by its running statistics."""
        test = self._workload.test
        if self._chain is not None:
            if self._tested is None:
                self._tested = self._chain.columns.apart(test.inputs.reshape(len(test), -1))
            guesses = self._chain.classify(weights, self._tested, tested)
        else:
            self._model.eval()
            self._floats[:] = weights
            with torch.no_grad():
                guesses = self._model(torch.from_numpy(test.inputs[tested])).argmax(1).numpy()
        return int((guesses == test.labels[tested]).sum())

    def _samples_of(self, passes: Sequence[Pass]) -> int:
        return sum(len(self._workload.devices[each.device]) for each in passes)

    def _views(self, vector: Floats) -> list[torch.Tensor]:
        """The parameters' parts of a vector like the weights; none of an empty one."""
        spans = self._spans if len(vector) else []
        return [torch.from_numpy(vector[start:stop]).view(shape) for start, stop, shape in spans]

    def _entered(self, weights: Floats) -> Floats:
        return self._chain.entered(weights) if self._chain else weights

    def _left(self, floats: Floats) -> Floats:
        return self._chain.left(floats) if self._chain else floats.copy()

    def _passes(self, passes: Sequence[Pass], rate: float, momentum: Floats, accumulated: Floats) -> float:
        """Trains the floats that are there; the loss summed over samples."""
        if self._chain is not None:
            fed = (self._fed(self._chain.columns, each) for each in passes)
            return self._chain.train(fed, rate, accumulated)
        to_training(self._model, self._resting)
        self._noise.manual_seed(_noise_seed(self._workload.config.seed, passes[0]))
        velocities, sums = self._views(momentum), self._views(accumulated)
        return sum(self._pass(each, rate, velocities, sums) for each in passes)

    def _order(self, each: Pass) -> tuple[Indices, list[slice]]:
        """In which order the pass feeds the dominator's samples, and its mini-batches."""
        training, seed = self._training, self._workload.config.seed
        count = len(self._workload.devices[each.device])
        cut = mini_batches(count, training.batch, self._workload.least_rows)
        rows = pass_order(count, seed=seed, epoch=each.epoch, device=each.device)
        return rows, [slice(batch.start, batch.stop) for batch in cut]

    def _fed(self, columns: Columns, each: Pass) -> Fed:
        own, (rows, batches) = self._workload.devices[each.device], self._order(each)
        apart = self._apart.get(each.device)
        if apart is None:
            apart = columns.apart(self._inputs[own])
        if not columns.all_common:  # lists are small, and take longer to make than rows to copy
            self._apart[each.device] = apart
        return Fed(apart, rows, self._workload.labels[own[rows]], batches)

    def _pass(
        self, each: Pass, rate: float, velocities: list[torch.Tensor], sums: list[torch.Tensor]
    ) -> float:
        """SGD as torch.optim.SGD defines it, by autograd; the loss summed over samples. With staleness the
        model lags one update behind the newest weights.
        """
        training = self._training
        parameters = [parameter.data for parameter in self._parameters]
        newest = [parameter.clone() for parameter in parameters] if training.staleness else parameters
        rows, batches = self._order(each)
        at = self._workload.devices[each.device][rows]
        inputs, wanted = (torch.from_numpy(all[at]) for all in (self._workload.inputs, self._workload.labels))
        loss_sum = 0.0
        for batch in batches:
            labels = wanted[batch]
            loss = F.cross_entropy(self._model(inputs[batch]), labels)
            gradients = list(torch.autograd.grad(loss, self._parameters))
            loss_sum += loss.item() * len(labels)
            steps = gradients
            if training.staleness:
                torch._foreach_copy_(parameters, newest)
            if training.weight_decay:
                steps = list(torch._foreach_add(steps, newest, alpha=training.weight_decay))
            if velocities:
                torch._foreach_mul_(velocities, training.momentum)
                torch._foreach_add_(velocities, steps)
                steps = velocities
            torch._foreach_add_(newest, steps, alpha=-rate)
            if sums:
                torch._foreach_abs_(gradients)
                torch._foreach_add_(sums, gradients)
        if training.staleness:
            torch._foreach_copy_(parameters, newest)
        return loss_sum


def _noise_seed(seed: int, first: Pass) -> int:
    """A seed of its own for each task, so that its rounding does not depend on who ran what before."""
    return int(np.random.SeedSequence((seed, first.epoch, first.device)).generate_state(1)[0])


@contextmanager
def one_thread() -> Iterator[None]:
    """Products on one thread: groups run side by side, and sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _threads().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _threads() -> ThreadpoolController:
    """Of the libraries that are loaded, which takes milliseconds to find out."""
    return ThreadpoolController()
