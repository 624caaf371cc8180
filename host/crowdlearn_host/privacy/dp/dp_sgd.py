"""A step of DP-SGD: per-sample gradients clipped to a norm, summed, with Gaussian noise (Abadi et al., 2016).

The clip factor of a sample scales its errors: one backward pass gives norms and the sum of clipped gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .ghost_norms import backward
from .slices import Cut, pieces_of

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function from scores [B, ...] and targets [B, ...] to a number for each sample, [B]."""


@dataclass(frozen=True)
class DPStep:
    """A step of DP-SGD: gradients are clipped to `clip`; noise of `noise` * `clip` is added to their sum,
    which is divided by `expected`, the mean number of samples of a mini-batch.
    """

    clip: float
    noise: float
    expected: float

    def gradients(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, generator: torch.Generator
    ) -> list[Tensor]:
        """Return the noisy gradient of every parameter that learns, float32 [...] like it.

        Raises UnsupportedModule if the model mixes samples.
        """
        learning = [p for p in model.parameters() if p.requires_grad]
        noise = self.noises(learning, generator)
        if not len(inputs):
            return [each / self.expected for each in noise]
        sums = self._summed(model, lambda scores: loss(scores, targets), inputs)
        return [
            (sums[p] + more) / self.expected if p in sums else more / self.expected
            for p, more in zip(learning, noise, strict=True)
        ]

    def noises(self, learning: list[nn.Parameter], generator: torch.Generator) -> list[Tensor]:
        """Return the noise of each parameter, float32 [...] like it."""
        deviation = self.noise * self.clip
        return [deviation * torch.randn(each.shape, generator=generator) for each in learning]

    def factors(self, squared: Tensor) -> Tensor:
        """Return the clip factors [B] of squared norms [B]."""
        return (self.clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0)

    def _summed(
        self, model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor
    ) -> dict[nn.Parameter, Tensor]:
        back = backward(model, loss, inputs)
        return back.summed(self.factors(back.squared))


@dataclass(frozen=True)
class SlicedDPStep(DPStep):
    """The same step by pieces that are cut at `cut`: one number a sample from each, one factor back."""

    cut: Cut

    def _summed(
        self, model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor
    ) -> dict[nn.Parameter, Tensor]:
        pieces = pieces_of(model, loss, inputs, self.cut)
        factors = self.factors(torch.stack([piece.squared for piece in pieces]).sum(0))
        sums: dict[nn.Parameter, Tensor] = {}
        for piece in pieces:
            for (parameter, start, stop), own in piece.summed(factors).items():
                whole = sums.setdefault(parameter, torch.zeros_like(parameter))
                if parameter.dim() == 1:
                    whole += own
                else:
                    whole[:, start:stop] = own
        return sums
