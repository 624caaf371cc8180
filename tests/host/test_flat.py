"""The flat vector is the state dict, and each of its weights has the owner of its source neuron."""

import numpy as np
import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import PlanError
from crowdlearn_host.methods.index_space import flat_layout, flatten, piece_of_weight, unflatten
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import PiecePlan, Plan
from torch import nn


def cnn() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), nn.Flatten()),
        *(nn.Linear(24, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
    )


def graph_of(model: nn.Module) -> NeuronGraph:
    return neuron_graph(model, torch.zeros(2, 1, 10, 10))


def owner(plan: Plan, layer: int, neuron: int) -> int:
    place = plan.order[layer].index(neuron) if plan.order and plan.order[layer] else neuron
    return next(i for i, p in enumerate(plan.pieces) if p.neurons[layer][0] <= place < p.neurons[layer][1])


def test_flattening_and_back_gives_the_same_state() -> None:
    state = cnn().state_dict()
    vector = flatten(state)
    assert len(vector) == sum(tensor.numel() for tensor in state.values() if tensor.is_floating_point())
    back = unflatten(vector, {name: torch.zeros_like(tensor) for name, tensor in state.items()})
    assert all(torch.equal(back[n], t) for n, t in state.items() if t.is_floating_point())


@pytest.mark.parametrize("reordered", [False, True])
def test_a_weight_belongs_to_the_owner_of_its_source_neuron(reordered: bool) -> None:
    model = cnn()
    graph = graph_of(model)
    plan = balanced(graph, 3)
    if reordered:
        order = [
            tuple(np.random.default_rng(7).permutation(layer.neurons).tolist()) for layer in graph.layers
        ]
        plan = Plan(tuple(PiecePlan(piece.neurons) for piece in plan.pieces), tuple(order))
    layout = flat_layout(model.state_dict())
    pieces = piece_of_weight(layout, graph, plan)
    place = {entry.name: pieces[entry.start : entry.stop].reshape(entry.shape) for entry in layout}
    for edge in graph.edges:
        owners = place[f"{edge.module}.weight"]
        for target in range(owners.shape[0]):
            for source in range(owners.shape[1]):
                neuron = target if edge.kind == "depthwise" else source
                if edge.kind == "dense":
                    neuron //= graph.layers[edge.source].output_floats
                assert (owners[target, source] == owner(plan, edge.source, neuron)).all()
    for layer in graph.layers:
        for op in layer.ops:
            for kind in ("bias", "running_mean"):
                owners = place.get(f"{op.module}.{kind}", np.zeros(0, np.int32))
                for neuron, piece in enumerate(owners):
                    assert piece == owner(plan, layer.index, neuron)


def test_a_plan_of_another_model_is_refused() -> None:
    other = nn.Sequential(nn.Linear(100, 3))
    graph = neuron_graph(other, torch.zeros(2, 100))
    with pytest.raises(PlanError, match="does not belong"):
        piece_of_weight(flat_layout(cnn().state_dict()), graph, balanced(graph, 1))
