"""The chain of dense layers trains as autograd does, whatever it leaves out."""

import copy
from collections.abc import Sequence

import pytest
import torch
from crowdlearn_host.models import mlp
from crowdlearn_host.sharing.flat import flat_layout, flatten, unflatten
from crowdlearn_host.simulation.dense import DenseChain, Fed, live_inputs
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


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "normalised":
        return mlp((50, 24, 12, 4))
    if kind == "flattened":
        return nn.Sequential(nn.Flatten(), *mlp((50, 24, 4)))
    layers = [
        nn.Linear(50, 24),
        nn.ReLU(),
        nn.Linear(24, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 4),
    ]
    return nn.Sequential(*layers)


kinds = pytest.mark.parametrize("kind", ["normalised", "normalised in part", "flattened"])


def chain_of(model: nn.Module) -> DenseChain:
    chain = DenseChain.of(model, flat_layout(model.state_dict()))
    assert chain is not None
    return chain


@kinds
@pytest.mark.parametrize("narrowed", [True, False])
@pytest.mark.parametrize("accumulate", [True, False])
def test_weights_statistics_loss_and_gradient_sums_are_autograds(
    kind: str, narrowed: bool, accumulate: bool
) -> None:
    model = network(kind)
    expected = copy.deepcopy(model)
    expected_sums, expected_loss = by_autograd(expected, BATCHES)
    flat = torch.from_numpy(flatten(model.state_dict()))
    chain = chain_of(model)
    chain.vector.copy_(chain.entered(flat))
    sums = torch.zeros(len(flat) if accumulate else 0)
    inputs, labels = data()
    live = live_inputs(inputs) if narrowed else None
    assert (live is None) != narrowed
    loss = chain.train([Fed(inputs, labels, BATCHES, live)], RATE, sums)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    trained = unflatten(chain.left(chain.vector).numpy(), model.state_dict())
    for name, value in expected.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)
    if accumulate:
        told = unflatten(chain.left(sums).numpy(), model.state_dict())
        for (name, _), wanted in zip(model.named_parameters(), expected_sums, strict=True):
            torch.testing.assert_close(told[name], wanted, rtol=1e-4, atol=1e-5)


@kinds
def test_samples_are_classified_as_the_network_does(kind: str) -> None:
    model = network(kind)
    by_autograd(model, BATCHES)  # its running statistics are those of some training
    inputs = torch.randn(1201, 50)
    expected = model.eval()(inputs).argmax(1)
    model.train()
    flat = torch.from_numpy(flatten(model.state_dict()))
    assert (chain_of(model).classify(flat, inputs) == expected).all()


def test_a_mini_batch_of_one_sample_is_refused_where_it_has_no_variance() -> None:
    chain = chain_of(network("normalised"))
    before = chain.vector.uniform_().clone()
    with pytest.raises(ValueError, match="no variance"):
        chain.train([Fed(*data(), [slice(0, 2), slice(2, 3)])], RATE, torch.zeros(0))
    assert torch.equal(chain.vector, before)


class Doubling(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[1].register_forward_hook(lambda layer, inputs, output: 2 * output)
    return model


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    return model


def tied() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "other",
    [
        nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False), nn.ReLU(), nn.Linear(4, 2)),
        nn.Sequential(nn.Flatten(0), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        nn.Linear(4, 2),
        Doubling(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
        hooked(),
        frozen(),
        tied(),
    ],
)
def test_another_network_is_left_to_autograd(other: nn.Module) -> None:
    assert DenseChain.of(other, flat_layout(other.state_dict())) is None
