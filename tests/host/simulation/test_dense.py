"""The chain of dense layers trains as autograd does, whatever it leaves out."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from crowdlearn_host.methods.index_space import flat_layout, flatten, unflatten
from crowdlearn_host.models.named import mlp
from crowdlearn_host.simulation.learners import together
from crowdlearn_host.simulation.learners.dense import DenseChain
from crowdlearn_host.simulation.learners.rare import apart
from crowdlearn_host.simulation.learners.sparse_inputs import Columns, SparseInputs
from crowdlearn_host.simulation.learners.steps import Fed
from torch import nn

BATCHES = [slice(0, 20), slice(20, 40), slice(40, 60), slice(60, 73)]
RATE = 0.3


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of 50 inputs, of which 10 are zero throughout, and 20 in most samples, one of these in all but
    those of one mini-batch.
    """
    torch.manual_seed(1)
    inputs, labels = torch.randn(73, 50), torch.randint(0, 4, (73,))
    order = torch.randperm(50)
    inputs[:, order[:10]] = 0
    inputs[:, order[10:30]] *= torch.rand(73, 20) < 0.1
    inputs[20:, order[10]] = 0
    inputs[:20, order[10]] = 1
    return inputs, labels


def columns_of(rare: bool) -> Columns:
    """Columns of which some are rare, or none."""
    columns = Columns.of(data()[0].numpy() if rare else np.ones((1, 50), np.float32))
    assert columns.count == (32 if rare else 50)
    return columns


ROWS = np.random.default_rng(0).permutation(73)


def samples_of(rare: bool = True) -> SparseInputs:
    """Those of `data` in another order."""
    return apart(columns_of(rare), data()[0].numpy()[np.argsort(ROWS)])


def fed(batches: Sequence[slice] = BATCHES) -> Fed:
    """As `data` has them."""
    stop = batches[-1].stop
    return Fed(ROWS[:stop], data()[1].numpy()[:stop], batches)


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


def chain_of(model: nn.Module, rare: bool = True) -> DenseChain:
    """With the weights of the model."""
    chain = DenseChain.of(model, flat_layout(model.state_dict()), columns_of(rare))
    assert chain is not None
    chain.vector[:] = chain.entered(flatten(model.state_dict()))
    return chain


@kinds
@pytest.mark.parametrize("rare", [True, False])
@pytest.mark.parametrize("accumulate", [True, False])
def test_weights_statistics_loss_and_gradient_sums_are_autograds(
    kind: str, rare: bool, accumulate: bool
) -> None:
    model = network(kind)
    expected = copy.deepcopy(model)
    expected_sums, expected_loss = by_autograd(expected, BATCHES)
    chain = chain_of(model, rare)
    sums = np.zeros(len(chain.vector) if accumulate else 0, np.float32)
    loss = chain.train(samples_of(rare), [fed()], RATE, sums)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    trained = unflatten(chain.left(chain.vector), model.state_dict())
    for name, value in expected.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(trained[name], value, rtol=1e-4, atol=1e-5)
    if accumulate:
        told = unflatten(chain.left(sums), model.state_dict())
        for (name, _), wanted in zip(model.named_parameters(), expected_sums, strict=True):
            torch.testing.assert_close(told[name], wanted, rtol=1e-4, atol=1e-5)


@kinds
@pytest.mark.parametrize("rare", [True, False])
def test_samples_are_classified_as_the_network_does(kind: str, rare: bool) -> None:
    model = network(kind)
    by_autograd(model, BATCHES)  # its running statistics are those of some training
    inputs = torch.cat([data()[0]] * 20) + torch.randn(1460, 50) * (torch.rand(1460, 50) < 0.02)
    expected = model.eval()(inputs).argmax(1)[100:1301]
    model.train()
    chain = chain_of(model, rare)
    samples = apart(chain.columns, inputs.numpy())
    classes = chain.classify(flatten(model.state_dict()), samples, range(100, 1301))
    assert np.array_equal(classes, expected.numpy())


@kinds
@pytest.mark.parametrize("rare", [True, False])
def test_gathered_statistics_are_means_over_the_mini_batches_of_each_pass(kind: str, rare: bool) -> None:
    model = network(kind)
    by_autograd(model, BATCHES)
    chain = chain_of(model, rare)
    few = BATCHES[:2]
    chain.gather_statistics(samples_of(rare), [fed(), fed(few)], [0.75, 0.25])
    gathered = unflatten(chain.left(chain.vector), model.state_dict())
    expected = {name: value.double() * 0 for name, value in model.state_dict().items()}
    for batches, share in ((BATCHES, 0.75), (few, 0.25)):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
        with torch.no_grad():
            for batch in batches:
                model.train()(data()[0][batch])
        for name, value in model.state_dict().items():
            expected[name] += share * value
    for name, value in expected.items():
        if gathered[name].is_floating_point():
            torch.testing.assert_close(gathered[name].double(), value, rtol=1e-4, atol=1e-5)


def test_a_mini_batch_of_one_sample_is_refused_where_it_has_no_variance() -> None:
    refused(fed(batches=[slice(0, 2), slice(2, 3)]), "no variance")


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_beyond_the_classes_is_refused(label: int) -> None:
    given = fed()
    given.labels[1] = label
    refused(given, "not one of the 4 classes")


def refused(given: Fed, why: str) -> None:
    """With nothing moved."""
    chain = chain_of(network("normalised"))
    before = chain.vector.copy()
    with pytest.raises(ValueError, match=why):
        chain.train(samples_of(), [given], RATE, np.zeros(0, np.float32))
    assert np.array_equal(chain.vector, before)


@kinds
@pytest.mark.parametrize("rare", [True, False])
def test_what_diverges_is_not_finite(kind: str, rare: bool) -> None:
    """Nor zero, as a comparison with zero could make it."""
    samples = samples_of()
    (samples.values if rare else samples.common)[0] = np.nan
    chain = chain_of(network(kind))
    loss = chain.train(samples, [fed()], RATE, np.zeros(0, np.float32))
    assert not np.isfinite(loss)
    assert not np.isfinite(chain.vector).all()


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
    assert DenseChain.of(other, flat_layout(other.state_dict()), columns_of(True)) is None


@kinds
@pytest.mark.parametrize("rare", [True, False])
@pytest.mark.parametrize("most", [1, 60, 1000])
def test_one_step_each_from_the_same_weights_is_the_mean_of_all_alone(
    kind: str, rare: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST_ROWS", most)
    model = network(kind)
    samples = samples_of(rare)
    each = [fed([slice(start, stop)]) for start, stop in ((0, 30), (30, 35), (35, 73))]
    shares = [0.5, 0.2, 0.3]
    alone, loss = [], 0.0
    for one in each:
        chain = chain_of(model, rare)
        loss += chain.train(samples, [one], RATE, np.zeros(0, np.float32))
        alone.append(chain.vector)
    chain = chain_of(model, rare)
    before = chain.vector.copy()
    together_mean, together_loss = chain.average_once(samples, each, shares, RATE)
    assert together_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(together_mean, np.average(alone, axis=0, weights=shares), rtol=1e-4, atol=1e-6)
    assert np.array_equal(chain.vector, before)
