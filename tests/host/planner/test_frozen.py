"""What is frozen costs no backward pass, no errors, no gradients, and is not shared."""

from __future__ import annotations

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.coordinator.hub.traffic_ledger import exchanged_bytes
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training, WireFormat, costs
from crowdlearn_host.simulation.modelled_traffic import errors_per_sample, sums_per_sample

from .conftest import fleet

WIDTHS = (40, 24, 16, 12, 4)
TRAINING = Training(batch=8, micro_batch=8, in_flight=1, momentum=True, theta=1.0, wire=WireFormat(4, 0))


@pytest.fixture(scope="module")
def frozen() -> NeuronGraph:
    """The first two of four dense layers rest with their batch norms."""
    model = mlp(WIDTHS)
    model[:6].requires_grad_(False)
    for norm in (model[1], model[4]):
        norm.eval()
    return neuron_graph(model, torch.zeros(1, 40), "frozen")


def test_a_neuron_costs_what_is_done_for_it(frozen: NeuronGraph, graph: NeuronGraph) -> None:
    """Layers 0 and 1 run forward; the edge 2 -> 3 learns, and nothing before it does."""
    some, all_ = costs(frozen, TRAINING), costs(graph, TRAINING)
    assert [each.macs for each in some.each] == [24, 16 + 3, 2 * 12 + 3 * 3, 3 * 4 + 3 * 3, 3]
    assert [each.macs for each in all_.each] == [2 * 24, 3 * 16 + 3 * 3, 3 * 12 + 3 * 3, 3 * 4 + 3 * 3, 3]
    assert [each.state / 4 for each in some.each] == [24, 16 + 5, 2 * 12 + 5, 2 * (4 + 3) + 2, 2]
    assert [bundle.gradients / 4 for bundle in some.memory.bundles] == [0, 0, 12, 4 + 3, 1]
    assert some.shared_weights == 16 * 12 + 12 * (4 + 3) + 4 + 2 * 12  # and running statistics
    assert [bundle.sums / 32 for bundle in some.memory.bundles] == [0, 0, 1, 1, 0]
    assert [bundle.sums / 32 for bundle in all_.memory.bundles] == [1, 1, 1, 1, 0]


def test_errors_come_back_where_something_learns(frozen: NeuronGraph) -> None:
    assert [(link.returned, link.returned_edges) for link in costs(frozen, TRAINING).links] == [
        *((0, 0), (0, 0)),
        *((1, 1), (1, 1)),
    ]
    kinds = {"name": "phone", "count": 3, "samples": 8, "max_macs": 1000}
    plan = plan_fleet(frozen, fleet(kinds), TRAINING, group_size=3, seconds=5, compare=False).plan
    assert plan.traffic is not None
    layout = tuple(piece.neurons for piece in plan.pieces)
    assert len(layout) == 3
    assert 0 < plan.traffic.backward < plan.traffic.forward
    sums, errors = sums_per_sample(frozen, plan), errors_per_sample(frozen, plan)
    assert (plan.traffic.forward, plan.traffic.backward) == (4 * 24 * sums, 4 * 24 * errors)
    assert exchanged_bytes(frozen, layout, 1000) == pytest.approx(4 * 1000 * (sums + errors), rel=0.01)
