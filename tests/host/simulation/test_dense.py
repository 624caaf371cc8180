"""The chain of dense layers trains as autograd does, whatever it leaves out."""

import copy
from collections.abc import Sequence

import pytest
import torch
from crowdlearn_host.models import mlp
from crowdlearn_host.sharing.flat import flat_layout, flatten, unflatten
from crowdlearn_host.simulation.dense import DenseChain
from torch import nn

BATCHES = [slice(0, 20), slice(20, 40), slice(40, 60), slice(60, 73)]
RATE = 0.3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of 50 inputs, of which 30 are zero throughout, and one in half of the samples."""
    torch.manual_seed(1)
    inputs, labels = torch.randn(73, 50), torch.randint(0, 4, (73,))
    inputs[:, torch.randperm(50)[:30]] = 0
    inputs[:36, torch.nonzero(inputs.any(0))[0]] = 0
    return inputs, labels


def by_autograd(model: nn.Module, batches: Sequence[slice]) -> tuple[list[torch.Tensor], float]:
    """Trains `model`; its summed |gradient| and summed loss."""
    inputs, labels = data()
    sums = [torch.zeros_like(p) for p in model.parameters()]
    loss_sum = 0.0
    for batch in batches:
        loss = nn.functional.cross_entropy(model(inputs[batch]), labels[batch])
        for parameter, total, gradient in zip(
            model.parameters(), sums, torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            total += gradient.abs()
            parameter.data -= RATE * gradient
        loss_sum += loss.item() * len(labels[batch])
    return sums, loss_sum


@pytest.mark.parametrize("batches", [BATCHES, BATCHES[:2]], ids=["narrowed", "whole"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_weights_statistics_loss_and_gradient_sums_are_autograds(
    batches: list[slice], accumulate: bool
) -> None:
    torch.manual_seed(0)
    model = mlp((50, 24, 12, 4))
    expected = copy.deepcopy(model)
    expected_sums, expected_loss = by_autograd(expected, batches)
    flat = torch.from_numpy(flatten(model.state_dict()))
    chain = DenseChain.of(model, flat_layout(model.state_dict()))
    assert chain is not None
    chain.vector.copy_(chain.entered(flat))
    sums = torch.zeros(len(flat) if accumulate else 0)
    loss = chain.train([(*data(), batches)], RATE, sums)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    trained = unflatten(chain.left(chain.vector).numpy(), model.state_dict())
    for name, value in expected.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)
    if accumulate:
        told = unflatten(chain.left(sums).numpy(), model.state_dict())
        for (name, _), wanted in zip(model.named_parameters(), expected_sums, strict=True):
            torch.testing.assert_close(told[name], wanted, rtol=1e-4, atol=1e-5)


def test_another_network_is_left_to_autograd() -> None:
    for other in (
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        nn.Linear(4, 2),
    ):
        assert DenseChain.of(other, flat_layout(other.state_dict())) is None
