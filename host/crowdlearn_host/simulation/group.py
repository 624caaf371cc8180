"""What a group computes between two sharings: SGD, pass by pass.

Slicing changes where a number is computed, not the number, so a simulated group is one model trained by its
dominators in turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.dataset import Dataset
from crowdlearn_device.schedule import mini_batches, pass_order
from crowdlearn_export.freezing import resting_modules, to_training
from numpy.typing import NDArray

from ..models import build_model
from ..sharing.flat import flat_layout
from .config import SimulationConfig
from .dense import DenseChain, Fed, live_inputs
from .wire import Crossing, round_sums

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]
NARROWED = 2
"""Passes of more mini-batches leave out inputs that are zero throughout: in fewer it costs more."""


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
        with torch.inference_mode():
            self._chain = DenseChain.of(self._model, layout) if plain else None
        self._floats = self._chain.vector if self._chain else self._vector
        self._gathered = np.empty((0, *workload.inputs.shape[1:]), np.float32)
        self._live: dict[int, torch.Tensor | None] = {}

    def train(
        self, passes: Sequence[Pass], weights: Floats, momentum: Floats, rate: float, accumulate: bool
    ) -> GroupResult:
        """A group after its passes, from these weights and this momentum (empty where training has none).

        Vectors are in the order of sharing.flat. `accumulate` asks for |gradient| summed per weight.
        """
        samples = self._samples(passes)
        with self._computing():
            self._floats.copy_(self._entered(weights))
            velocity = torch.from_numpy(momentum.copy())
            accumulated = torch.zeros(len(self._vector) if accumulate else 0)
            loss = self._passes(passes, rate, velocity, accumulated) / max(samples, 1)
            sums = self._left(accumulated) if accumulate else accumulated.numpy()
            return GroupResult(self._left(self._floats), velocity.numpy(), sums, loss, samples)

    def average(self, devices: Sequence[Sequence[Pass]], weights: Floats, rate: float) -> GroupResult:
        """The mean, by samples, of the models that each of the devices trains alone from these weights."""
        samples = [self._samples(passes) for passes in devices]
        loss, nothing = 0.0, np.zeros(0, np.float32)
        with self._computing():
            start = self._entered(weights)
            total = torch.zeros_like(start)
            for passes, own in zip(devices, samples, strict=True):
                self._floats.copy_(start)
                velocity = torch.zeros(len(start) if self._training.momentum else 0)
                loss += self._passes(passes, rate, velocity, torch.zeros(0))
                total.add_(self._floats, alpha=own / sum(samples))
            for part in self._frozen:
                total[part] = start[part]  # as it is: a mean of equal numbers may be rounded
            return GroupResult(self._left(total), nothing, nothing, loss / sum(samples), sum(samples))

    def right(self, weights: Floats, tested: slice) -> int:
        """How many of these test samples a model of these weights gets right, by its running statistics."""
        test = self._workload.test
        flat, given = torch.from_numpy(np.array(weights)), torch.from_numpy(test.inputs[tested])
        if self._chain is not None:
            with torch.inference_mode():
                guesses = self._chain.classify(flat, given.flatten(1))
        else:
            self._model.eval()
            self._vector.copy_(flat)
            with torch.no_grad():
                guesses = self._model(given).argmax(1)
        return int((guesses.numpy() == test.labels[tested]).sum())

    def _samples(self, passes: Sequence[Pass]) -> int:
        return sum(len(self._workload.devices[each.device]) for each in passes)

    def _computing(self) -> AbstractContextManager[object]:
        """A chain needs no autograd, and its operators are called in less time without."""
        return torch.inference_mode() if self._chain is not None else nullcontext()

    def _views(self, vector: torch.Tensor) -> list[torch.Tensor]:
        """The parameters' parts of a vector like the weights."""
        return [vector[start:stop].view(shape) for start, stop, shape in self._spans]

    def _entered(self, weights: Floats) -> torch.Tensor:
        flat = torch.from_numpy(weights)
        return self._chain.entered(flat) if self._chain else flat

    def _left(self, floats: torch.Tensor) -> Floats:
        flat: Floats = (self._chain.left(floats) if self._chain else floats.clone()).numpy()
        return flat

    def _passes(
        self, passes: Sequence[Pass], rate: float, momentum: torch.Tensor, accumulated: torch.Tensor
    ) -> float:
        """Trains the floats that are there; the loss summed over samples."""
        fed = map(self._fed, passes)
        if self._chain is not None:
            return self._chain.train(fed, rate, accumulated)
        to_training(self._model, self._resting)
        self._noise.manual_seed(_noise_seed(self._workload.config.seed, passes[0]))
        velocities = self._views(momentum) if len(momentum) else []
        sums = self._views(accumulated) if len(accumulated) else []
        return sum(self._pass(each, rate, velocities, sums) for each in fed)

    def _fed(self, each: Pass) -> Fed:
        """The dominator's samples in the order in which the pass feeds them, until the next pass."""
        workload = self._workload
        own = workload.devices[each.device]
        at = own[pass_order(len(own), seed=workload.config.seed, epoch=each.epoch, device=each.device)]
        if len(self._gathered) < len(at):
            self._gathered = np.empty((len(at), *workload.inputs.shape[1:]), np.float32)
        inputs = self._gathered[: len(at)]
        np.take(workload.inputs, at, 0, inputs, mode="clip")  # any other mode would copy once more
        cut = mini_batches(len(at), workload.config.training.batch, workload.least_rows)
        batches = [slice(b.start, b.stop) for b in cut]
        samples, labels = torch.from_numpy(inputs), torch.from_numpy(workload.labels[at])
        if self._chain is None:
            return Fed(samples, labels, batches)
        samples = samples.flatten(1)
        if len(batches) > NARROWED and each.device not in self._live:
            self._live[each.device] = live_inputs(samples)
        return Fed(samples, labels, batches, self._live.get(each.device))

    def _pass(
        self,
        fed: Fed,
        rate: float,
        velocities: list[torch.Tensor],
        sums: list[torch.Tensor],
    ) -> float:
        """SGD as torch.optim.SGD defines it, by autograd; the loss summed over samples. With staleness the
        model lags one update behind the newest weights.
        """
        training = self._training
        parameters = [parameter.data for parameter in self._parameters]
        newest = [parameter.clone() for parameter in parameters] if training.staleness else parameters
        loss_sum = 0.0
        for batch in fed.batches:
            labels = fed.labels[batch]
            loss = F.cross_entropy(self._model(fed.inputs[batch]), labels)
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
    """Torch on one thread: groups run side by side, and sums do not depend on the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
