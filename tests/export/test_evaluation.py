"""A model answers the same each time in evaluation mode, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.tracing.evaluation import check_evaluation
from torch import Tensor, nn


class Run(nn.Module):
    """A dense layer, and a function of what it gives."""

    def __init__(self, run: Callable[[Run, Tensor], Tensor]) -> None:
        super().__init__()
        self.head, self.run, self.calls = nn.Linear(6, 3), run, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.run(self, self.head(x))


class Stubborn(nn.BatchNorm1d):
    """Stays in training."""

    def train(self, mode: bool = True) -> Stubborn:
        return super().train(True)


class MonteCarlo(nn.Dropout):
    """Drops in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


def behind(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), module, nn.Linear(5, 3))


REFUSED = {
    "functional dropout": (lambda: Run(lambda m, y: F.dropout(y)), "Run: dropout draws random numbers"),
    "dropout by name": (lambda: behind(MonteCarlo(0.1)), r"1 \(MonteCarlo\): dropout draws random"),
    "rrelu": (lambda: Run(lambda m, y: F.rrelu(y, training=True)), "Run: rrelu draws random"),
    "noise": (lambda: Run(lambda m, y: y + torch.randn_like(y)), "Run: randn_like draws random"),
    "noise of no account": (lambda: Run(lambda m, y: y + 0 * torch.rand(3)), "Run: rand draws random"),
    "calls counted": (lambda: Run(lambda m, y: y * m.calls), "other scores each time"),
    "batch norm in training": (lambda: behind(Stubborn(5)), "other scores in another batch"),
    "batch norm without statistics": (
        lambda: behind(nn.BatchNorm1d(5, track_running_stats=False)),
        "other scores in another batch",
    ),
    "a share of the batch": (lambda: Run(lambda m, y: y / y.sum()), "other scores in another batch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_answers_otherwise_is_refused_by_name(what: str) -> None:
    build, words = REFUSED[what]
    model, before = build(), torch.random.get_rng_state()
    with pytest.raises(UnsupportedModule, match=words):
        check_evaluation(model, (6,))
    assert torch.equal(before, torch.random.get_rng_state()), "nothing is drawn from the caller's numbers"


@pytest.mark.parametrize(
    "module", [nn.Dropout(0.5), nn.BatchNorm1d(5), nn.RReLU(), nn.AlphaDropout(0.3), nn.LayerNorm(5)]
)
def test_what_is_random_in_training_alone_passes_and_stays_as_it_was(module: nn.Module) -> None:
    model = behind(module).train()
    check_evaluation(model, (6,))
    assert module.training
    assert not module._forward_hooks
