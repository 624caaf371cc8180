"""DP-SGD of any network: samples drawn at random, gradients clipped sample by sample, with noise."""

from __future__ import annotations

import numpy as np
import torch
from crowdlearn_device.protocol.schedule import warmed
from torch import Tensor

from crowdlearn_host.privacy.dp.dp_sgd import DPStep

from .autograd import ByAutograd
from .workload import Pass


class ByDPSGD(ByAutograd):
    """A network that learns by DP-SGD: a pass has as many steps as without, each on a Poisson sample.

    Slices compute the same (privacy/dp/slices.py). Samples and noise are drawn from the run's seed, for a
    simulation repeats itself; a device would draw them from a secret.
    """

    def _pass(
        self, each: Pass, rate: float, kept: list[list[Tensor]], sums: list[Tensor], updates: int
    ) -> float:
        workload, training = self._workload, self._workload.config.training
        own = workload.devices[each.device]
        if not len(own):
            return 0.0
        budget = workload.config.budget
        privacy, count = workload.config.privacy, len(own)
        chance = budget.rate(count)
        step = DPStep(privacy.clip, budget.noise_of(count), count * chance)
        draws = np.random.SeedSequence((workload.config.seed, each.epoch, each.device, 24))
        generator = torch.Generator().manual_seed(int(draws.generate_state(1)[0]))
        inputs = workload.samples_of(workload.inputs[own])
        labels = torch.from_numpy(workload.labels[own])
        weights = self._stretched(self.vector)
        for number in range(updates + 1, updates + 1 + budget.steps(count)):
            chosen = torch.rand(count, generator=generator) < chance
            gradients = step.gradients(
                self._model, self._loss.reference, inputs[chosen], labels[chosen], generator
            )
            slopes = self._joined(gradients)
            self._descend(weights, slopes, kept, warmed(rate, number, training.warmup), number)
            if sums:
                torch._foreach_abs_(slopes)
                torch._foreach_add_(sums, slopes)
        with torch.no_grad():  # of the pass as a whole, for the record: it is not released by devices
            return float(self._loss.reference(self._model(inputs), labels))
