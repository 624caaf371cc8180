"""A step of DP-SGD: per-sample gradients clipped to a norm, summed, with Gaussian noise (Abadi et al., 2016).

The clip factor of a sample goes back with its errors: one backward pass tells norms, a second one sums
clipped gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .ghost_norms import norms_of


@dataclass(frozen=True)
class DPStep:
    """Gradients are clipped to `clip`; noise of `noise` * `clip` is added to their sum, which is divided by
    `expected`, the mean number of samples of a mini-batch.
    """

    clip: float
    noise: float
    expected: int

    def gradients(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        generator: torch.Generator,
    ) -> list[Tensor]:
        """Return the noisy gradient of every parameter that learns, float32 [...] like it.

        `loss` gives a number for each sample, [B]. Raises UnsupportedModule if the model mixes samples.
        """
        learning = [p for p in model.parameters() if p.requires_grad]
        if len(inputs):
            norms = norms_of(model, lambda scores: loss(scores, targets), inputs)
            factors = (self.clip / norms.clamp(min=1e-12)).clamp(max=1.0)
            total = (loss(model(inputs), targets) * factors).sum()
            summed = list(torch.autograd.grad(total, learning))
        else:
            summed = [torch.zeros_like(p) for p in learning]
        deviation = self.noise * self.clip
        noise = [deviation * torch.randn(each.shape, generator=generator) for each in summed]
        return [(each + more) / self.expected for each, more in zip(summed, noise, strict=True)]
