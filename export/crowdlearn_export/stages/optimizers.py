"""Every optimizer as torch.optim has it, with which programs are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from crowdlearn_device.optimizers.adam import Adam, AdamW
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.sgd import Sgd
from torch import Tensor


def torch_optimizer(optimizer: Optimizer, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
    """Return the same of torch.optim, over parameters [...]. Clipping is not part of it."""
    return OWN[type(optimizer)](optimizer, parameters, rate)


def _sgd(optimizer: Any, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
    options = {"momentum": optimizer.momentum, "nesterov": optimizer.nesterov}
    return torch.optim.SGD(parameters, rate, weight_decay=optimizer.weight_decay, **options)


def _adam(optimizer: Any, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
    kind = torch.optim.AdamW if isinstance(optimizer, AdamW) else torch.optim.Adam
    betas = optimizer.beta1, optimizer.beta2
    return kind(parameters, rate, betas, optimizer.eps, optimizer.weight_decay)


OWN: dict[type[Optimizer], Callable[[Any, Sequence[Tensor], float], torch.optim.Optimizer]] = {
    Sgd: _sgd,
    Adam: _adam,
    AdamW: _adam,
}
"""The optimizers of torch.optim, by class of ours."""


def reference_step(
    optimizer: Optimizer,
    weights: Sequence[Tensor],
    slopes: Sequence[Tensor],
    slots: Sequence[Tensor],
    numbers: Sequence[Tensor],
) -> list[Tensor]:
    """Return new weights, then new slots, by the optimizer's own arithmetic on each array [...].

    It takes the numbers of a step as they come, which torch.optim does not; that the arithmetic is
    torch.optim's is for tests to hold.
    """
    named = dict(zip(optimizer.numbers, numbers, strict=True))
    steps = [
        optimizer.step(weight, slope, slots[i :: len(weights)], named)
        for i, (weight, slope) in enumerate(zip(weights, slopes, strict=True))
    ]
    return [array for kind in zip(*steps, strict=True) for array in kind]
