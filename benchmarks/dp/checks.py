"""Checks of exactness that are printed beside the figures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from crowdlearn.errors import ConfigError
from crowdlearn.privacy import DPStep, Schedule, SlicedDPStep, epsilon, norms_of, own_epsilon

from .networks import BUILT, Net, losses


@dataclass(frozen=True)
class Check:
    """One comparison: `deviation` is relative, and at most `bound` where all is well."""

    mode: str
    what: str
    deviation: float
    bound: float


def all_checks() -> Iterator[Check]:
    """Yield every comparison."""
    for name in BUILT:
        yield Check("norms", f"{name}: ghost norms, per-sample autograd", _norms(name), 1e-5)
    for name in ("small", "large"):
        yield Check("slices", f"{name}: 20 steps on 4 slices, unsliced", _sliced(name), 1e-4)
    try:
        yield Check("accountants", "own epsilon, dp-accounting", _accountants(), 0.01)
    except ConfigError as error:
        print(f"accountants: not compared ({error})")


def _batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 28, 28, generator=generator), torch.arange(16) % 10


def _norms(name: str) -> float:
    model, (inputs, targets) = Net(name, 0).build(0), _batch(0)
    found = norms_of(model, lambda scores: losses(scores, targets), inputs)
    worst = 0.0
    for k in range(len(inputs)):
        loss = losses(model(inputs[k : k + 1]), targets[k : k + 1]).sum()
        own = torch.autograd.grad(loss, list(model.parameters()))
        exact = float(torch.sqrt(sum((g.double().square().sum() for g in own), torch.zeros(()))))
        worst = max(worst, abs(float(found[k]) - exact) / exact)
    return worst


def _sliced(name: str) -> float:
    """Train 20 steps whole and on four pieces with the same noise, and compare what was learned."""
    whole, cut = Net(name, 0).build(0), Net(name, 0).build(0)
    first = torch.cat([p.detach().reshape(-1) for p in whole.parameters()]).clone()
    one = torch.Generator().manual_seed(1)
    other = torch.Generator().manual_seed(1)
    for number in range(20):
        inputs, targets = _batch(number)
        steps = (
            (whole, DPStep(0.1, 1.0, 16).gradients(whole, losses, inputs, targets, one)),
            (
                cut,
                SlicedDPStep(0.1, 1.0, 16, (0, 0.25, 0.5, 0.75, 1)).gradients(
                    cut, losses, inputs, targets, other
                ),
            ),
        )
        with torch.no_grad():
            for model, gradients in steps:
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.sub_(0.5 * gradient)
    learned = [
        torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - first for model in (whole, cut)
    ]
    return float((learned[0] - learned[1]).abs().max() / learned[0].abs().max())


def _accountants() -> float:
    schedules = (Schedule(1.0, 0.01, 800), Schedule(1.0, 1024 / 60000, 1000), Schedule(5.0, 1.0, 10))
    return max(abs(own_epsilon(s, 1e-5) / epsilon(s, 1e-5) - 1) for s in schedules)
