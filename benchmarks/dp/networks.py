"""The networks and settings that both we and Opacus train; torch alone is imported here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLIP, BATCH, MOMENTUM, RATE = 0.1, 1024, 0.9, 16.0
"""The clipping norm, the mean mini-batch, and the learning rate of a gradient that is divided by the clip."""
SIDE = 28
"""Pixels of an image's side."""
SEEN, SPREAD = 0.1307, 0.3081
"""Mean and deviation of MNIST's pixels as published: no sample of a run is asked for them."""


@dataclass(frozen=True)
class Net:
    """A network and the steps it is trained for."""

    name: str
    steps: int

    def build(self, seed: int) -> nn.Module:
        """Return the network with first weights of a seed; tanh suits clipped gradients."""
        torch.manual_seed(seed)
        return BUILT[self.name]()


def _small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=4, padding=2),
        nn.Tanh(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


def _large() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=2),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


def _normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, stride=2, padding=2),
        nn.GroupNorm(4, 16),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.GroupNorm(4, 32),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


BUILT = {"small": _small, "large": _large, "group norm": _normed}


def prepared(inputs: Tensor) -> Tensor:
    """Return grey pixels float32 [N, ...] of square images as the network takes them: float32 [N, 1, 28, 28].

    Those of another size are enlarged.
    """
    side = int(inputs[0].numel() ** 0.5)
    images = inputs.reshape(len(inputs), 1, side, side)
    images = images if side == SIDE else F.interpolate(images, (SIDE, SIDE), mode="bilinear")
    return (images - SEEN) / SPREAD


def rate_of(number: int, steps: int, clip: float | None) -> float:
    """Return torch.optim.SGD's learning rate at a step; `clip` is None if nothing is clipped."""
    warm = min(1.0, (number + 1) / 5)
    base = RATE / clip if clip else 1.0
    return base * (1 - MOMENTUM) * warm * (1 - number / steps)


def losses(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample: float32 [B]."""
    return F.cross_entropy(scores, targets, reduction="none")


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the share of test samples that the model gets right."""
    with torch.no_grad():
        right = sum(
            int((model(inputs[at : at + 2000]).argmax(1) == labels[at : at + 2000]).sum())
            for at in range(0, len(inputs), 2000)
        )
    return right / len(inputs)
