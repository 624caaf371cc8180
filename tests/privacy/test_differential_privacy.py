"""Differential privacy: norms by autograd, sums over slices, two accountants."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest
import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_host.privacy.dp.accountant import Schedule, noise_for, own_epsilon
from crowdlearn_host.privacy.dp.dp_sgd import DPStep, SlicedDPStep
from crowdlearn_host.privacy.dp.ghost_norms import norms_of
from torch import nn
from torch.nn import functional as F


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 8, padding_idx=0)
        self.norm = nn.LayerNorm(8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.words(x)
        x = x + torch.tanh(self.mix(self.norm(x)))
        return self.head(x.mean(1))


MODELS = {
    "dense": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5)), (6,)),
    "without bias": (lambda: nn.Sequential(nn.Linear(6, 9, bias=False), nn.Tanh(), nn.Linear(9, 5)), (6,)),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, stride=2),
            nn.GroupNorm(4, 8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.Conv2d(8, 12, 1, groups=2),
            nn.Flatten(),
            nn.Linear(12 * 2 * 2, 5),
        ),
        (3, 8, 8),
    ),
    "frozen": (lambda: _frozen(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5))), (6,)),
    "tokens": (Transformer, None),
}


def _frozen(model: nn.Sequential) -> nn.Sequential:
    model[0].requires_grad_(False)
    return model


def _case(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    inputs = torch.randint(0, 11, (7, 6)) if shape is None else torch.randn(7, *shape, dtype=torch.float64)
    return build().double(), inputs, torch.arange(7) % 5


def _losses(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores, targets, reduction="none")


def _own_gradients(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> list[list[torch.Tensor]]:
    learning = [p for p in model.parameters() if p.requires_grad]
    return [
        list(torch.autograd.grad(_losses(model(inputs[k : k + 1]), targets[k : k + 1]).sum(), learning))
        for k in range(len(inputs))
    ]


def _norm(arrays: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their Euclidean norm, as of one vector."""
    return torch.cat([each.flatten() for each in arrays]).norm()


@pytest.mark.parametrize("name", MODELS)
def test_norms_are_those_of_autograd(name: str) -> None:
    model, inputs, targets = _case(name)
    found = norms_of(model, lambda scores: _losses(scores, targets), inputs)
    for norm, own in zip(found, _own_gradients(model, inputs, targets), strict=True):
        exact = _norm(own)
        assert abs(norm - exact) <= 1e-5 * exact


@pytest.mark.parametrize("name", MODELS)
def test_a_step_sums_clipped_gradients(name: str) -> None:
    model, inputs, targets = _case(name)
    clip = 0.5
    found = DPStep(clip, 0.0, 7).gradients(model, _losses, inputs, targets, torch.Generator())
    expected = [torch.zeros_like(each) for each in found]
    for own in _own_gradients(model, inputs, targets):
        norm = _norm(own)
        scaled = [each * min(1.0, float(clip / norm)) / 7 for each in own]
        expected = [a + b for a, b in zip(expected, scaled, strict=True)]
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10)
    assert _norm(found) <= clip + 1e-9


def test_noise_has_the_deviation_that_it_should_and_an_empty_mini_batch_is_noise_alone() -> None:
    model = nn.Linear(300, 200)
    step = DPStep(clip=2.0, noise=1.5, expected=10)
    (weight, bias) = step.gradients(
        model,
        _losses,
        torch.zeros(0, 300),
        torch.zeros(0, dtype=torch.long),
        torch.Generator().manual_seed(0),
    )
    assert float(weight.std()) == pytest.approx(0.3, rel=0.02)
    assert bias.shape == (200,)


def test_what_mixes_samples_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModule, match=r"1: batch norm.*GroupNorm"):
        norms_of(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), lambda s: s.sum(1), torch.zeros(2, 3))


@pytest.mark.parametrize(
    "schedule",
    [Schedule(1.0, 0.01, 800), Schedule(2.0, 0.05, 300), Schedule(0.7, 0.004, 5000), Schedule(5.0, 1.0, 10)],
)
def test_two_accountants_agree_within_one_per_cent(schedule: Schedule) -> None:
    dp = pytest.importorskip("dp_accounting", reason="dp-accounting is not installed (extra privacy)")
    del dp
    from crowdlearn_host.privacy.dp.accountant import epsilon

    assert own_epsilon(schedule, 1e-5) == pytest.approx(epsilon(schedule, 1e-5), rel=0.01)


def test_the_account_grows_with_steps_and_falls_with_noise() -> None:
    told = [own_epsilon(Schedule(1.0, 0.01, steps), 1e-5) for steps in (1, 100, 1000)]
    assert told == sorted(told)
    assert own_epsilon(Schedule(0.0, 0.01, 1), 1e-5) == inf
    noise = noise_for(2.9, 0.02, 1000, 1e-5)
    assert own_epsilon(Schedule(noise, 0.02, 1000), 1e-5) <= 2.9
    assert own_epsilon(Schedule(noise / 1.01, 0.02, 1000), 1e-5) > 2.9


@pytest.mark.parametrize("cut", [(0, 0.5, 1), (0, 0.1, 0.2, 0.7, 1)])
def test_pieces_sum_what_the_whole_network_does_with_the_same_noise(cut: tuple[float, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 5)
    )
    inputs, targets = torch.randn(7, 3, 5, 5), torch.arange(7) % 5
    whole, cut_up = (
        step.gradients(model, _losses, inputs, targets, torch.Generator().manual_seed(3))
        for step in (DPStep(0.5, 1.0, 7), SlicedDPStep(0.5, 1.0, 7, cut))
    )
    for a, b in zip(whole, cut_up, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


class Last(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


class Tied(nn.Module):
    """A table that the output shares, a dense layer that runs twice, attention, and time before samples."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.norm, self.twice = nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.look, self.out = nn.MultiheadAttention(8, 2), nn.Linear(8, 11, bias=False)
        self.out.weight = self.words.weight

    def forward(self, x):
        x = self.words(x).transpose(0, 1)
        x = x + self.twice(torch.tanh(self.twice(self.norm(x))))
        return self.out((x + self.look(x, x, x, need_weights=False)[0]).mean(0))


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (Tied, torch.arange(49).reshape(7, 7) * 5 % 11),
        (lambda: nn.Sequential(nn.GRU(3, 4, batch_first=True), Last(), nn.Linear(4, 7)), torch.rand(7, 5, 3)),
    ],
)
def test_models_whose_modules_have_no_rules_are_clipped_all_the_same(build, inputs) -> None:
    """Of shared weights with their cross terms; of a recurrence sample by sample."""
    torch.manual_seed(0)
    model, targets = build(), torch.arange(7)
    found = norms_of(model, lambda scores: _losses(scores, targets), inputs)
    for norm, own in zip(found, _own_gradients(model, inputs, targets), strict=True):
        assert float(norm) == pytest.approx(float(_norm(own)), rel=1e-5)
    summed = DPStep(1e9, 0.0, 1).gradients(model, _losses, inputs, targets, torch.Generator())
    learning = [p for p in model.parameters() if p.requires_grad]
    exact = torch.autograd.grad(_losses(model(inputs), targets).sum(), learning)
    for a, b in zip(summed, exact, strict=True):
        assert (a - b).abs().max() <= 1e-5


def test_a_batch_norm_that_rests_mixes_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[1].eval()
    inputs = torch.randn(6, 3)
    found = norms_of(model, lambda scores: scores.sum(1), inputs)
    for row in range(6):
        own = torch.autograd.grad(model(inputs[row : row + 1]).sum(), list(model.parameters()))
        assert float(found[row]) == pytest.approx(float(_norm(own)), rel=1e-5)
