"""DP-SGD of any network: samples drawn at random, gradients clipped sample by sample, with noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from crowdlearn_device.privacy.dp.draws import Draws, gaussian
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import warmed
from torch import Tensor, nn

from crowdlearn_host.methods.index_space import FlatEntry
from crowdlearn_host.privacy.dp.dp_sgd import DPStep

from .autograd import ByAutograd, Totals
from .workload import Pass, Workload


@dataclass(frozen=True)
class DrawnStep(DPStep):
    """A step whose standard normal numbers are drawn already: `drawn`, one tensor like each parameter."""

    drawn: Sequence[Tensor]

    def noises(self, learning: Sequence[nn.Parameter], generator: torch.Generator) -> list[Tensor]:
        return [float(np.float32(self.noise * self.clip)) * each for each in self.drawn]


class ByDPSGD(ByAutograd):
    """A network that learns by DP-SGD: a pass has as many steps as without, each on a Poisson sample.

    Slices compute the same (privacy/dp/slices.py). Samples and noise are drawn from the run's seed, piece by
    piece as phones draw them; where samples lie on phones, these draw from a secret.
    """

    def __init__(self, model: nn.Module, layout: Sequence[FlatEntry], workload: Workload) -> None:
        super().__init__(model, layout, workload)
        learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._learning = [entry for entry in layout if entry.name in learning]
        self._generator = torch.Generator()

    def _pass(
        self, each: Pass, rate: float, kept: list[list[Tensor]], sums: list[Tensor], updates: int
    ) -> Totals:
        workload, training = self._workload, self._workload.config.training
        own = workload.devices[each.device]
        if not len(own):
            return np.zeros(1 + len(self._watched))
        budget = workload.config.budget
        privacy, count = workload.config.privacy, len(own)
        draws = Draws(workload.config.seed, each.epoch, each.device, count, training.batch)
        inputs = workload.samples_of(workload.inputs[own])
        labels = torch.from_numpy(workload.labels[own])
        weights = self._stretched(self.vector)
        for done in range(budget.steps(count)):
            chosen, number = torch.from_numpy(draws.rows(done)), updates + 1 + done
            step = DrawnStep(privacy.clip, budget.noise_of(count), draws.expected, self._drawn(draws, done))
            gradients = step.gradients(
                self._model, self._loss.reference, inputs[chosen], labels[chosen], self._generator
            )
            slopes = self._joined(gradients)
            self._descend(weights, slopes, kept, warmed(rate, number, training.warmup), number)
            if sums:
                torch._foreach_abs_(slopes)
                torch._foreach_add_(sums, slopes)
        with torch.no_grad():  # of the pass as a whole, for the record: it is not released by devices
            scores = self._model(inputs)
            return np.array([float(self._loss.reference(scores, labels)), *self._metrics(scores, labels)])

    def _drawn(self, draws: Draws, step: int) -> list[Tensor]:
        """Return the noise of a step, a float32 tensor [...] like each parameter that learns."""
        drawn: Floats = np.zeros(len(self.vector), np.float32)
        for piece, places in enumerate(self._workload.learning):
            drawn[places] = gaussian(draws.key(step, piece), len(places))
        return [self._view(drawn, entry) for entry in self._learning]
