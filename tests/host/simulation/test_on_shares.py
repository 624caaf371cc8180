"""Networks on shares train like networks of floats, in simulations to the bits of three helpers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.shares import shared_edges, shares_cost
from crowdlearn_host.simulation.learners.on_shares import Held, Made, Triple, opened, put_on_shares
from crowdlearn_host.spec.simulation import SimulationConfig
from torch import nn


class Residual(nn.Module):
    """Convolution, depthwise convolution, residual addition, batch norm and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.each, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.point, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6 * 16, 12)
        self.last = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.point(torch.relu(self.norm(self.each(x)))) + x)
        return self.last(torch.relu(self.head(nn.functional.max_pool2d(x, 2).flatten(1))))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (lambda: build_model("mlp:20-16-12-5", 0), (20,)),
    "residual": (Residual, (3, 8, 8)),
}


def triples(held: list[Held] | None = None) -> Made:
    return lambda edge, kind, told, name: Triple(
        edge, kind, told, name, held.append if held is not None else None
    )


def trained(name: str, made: Made | None, *, first_layer: bool, steps: int = 3) -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    build, shape = NETWORKS[name]
    model = build()
    graph = neuron_graph(model, torch.zeros(2, *shape))
    if made is not None:
        on = {graph.edges[e].module: e for e in shared_edges(graph, first_layer=first_layer)}
        put_on_shares(model, on, made)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    x, y = torch.randn(24, *shape), torch.randint(0, 4, (24,))
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {key: value.detach().numpy() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("first_layer", [False, True])
def test_three_helpers_give_the_bits_of_integers_in_the_clear(name: str, first_layer: bool) -> None:
    by_helpers = trained(name, triples(), first_layer=first_layer)
    for key, value in trained(name, opened, first_layer=first_layer).items():
        np.testing.assert_array_equal(by_helpers[key], value, err_msg=key)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_near_those_of_floats(name: str) -> None:
    """Not nearer: some inputs of ReLU or max pooling are so close to a kink that they take its other side."""
    on_shares = trained(name, opened, first_layer=True)
    for key, value in trained(name, None, first_layer=True).items():
        assert np.abs(on_shares[key] - value).max() <= 3e-3, key


def test_what_helpers_hold_of_samples_is_no_two_times_the_same() -> None:
    held: list[Held] = []
    trained("dense", triples(held), first_layer=True, steps=2)
    shares = [h.values for h in held if h.position == 0 and h.kind == "activations" and h.edge == 0]
    assert len(shares) == 2
    assert not (shares[0] == shares[1]).any()


def test_costs_of_the_papers_network() -> None:
    graph = neuron_graph(build_model("paper-mlp", 0), torch.zeros(2, 784))
    kept, shared = (shares_cost(graph, first_layer=first) for first in (False, True))
    assert kept.bytes_per_sample(512) <= 26_000
    assert shared.bytes_per_sample(512) <= 60_000
    assert shared.dominator_macs <= 0.05 * shared.model_macs
    assert kept.helper_macs <= 1.5 * kept.follower_macs
    assert shared.helper_macs <= 1.5 * shared.follower_macs


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"group": 3, "devices": 6}, "group >= 4"),
        ({"training": {"wire": "int8"}}, "wire of its own"),
        ({"training": {"staleness": 1}}, "no staleness"),
    ],
)
def test_what_shares_cannot_do_is_refused_with_what_would(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_config({"privacy": {"sums": "shares"}, **values}, SimulationConfig, "the test")
