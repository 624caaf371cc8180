from __future__ import annotations

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner.balanced import balanced
from torch import nn


@pytest.fixture
def graph() -> NeuronGraph:
    model = nn.Sequential(nn.Linear(20, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    return neuron_graph(model, torch.zeros(1, 20))


def test_followers_share_every_hidden_layer(graph: NeuronGraph) -> None:
    plan = balanced(graph, 4)
    assert plan.pieces[0].neurons == ((0, 20), (0, 0), (0, 0), (0, 3))
    sizes = [[stop - start for start, stop in piece.neurons[1:3]] for piece in plan.pieces[1:]]
    assert sorted(size[0] for size in sizes) == [2, 2, 3]
    assert sorted(size[1] for size in sizes) == [1, 2, 2]


def test_one_piece_owns_everything(graph: NeuronGraph) -> None:
    assert balanced(graph, 1).pieces[0].neurons == ((0, 20), (0, 7), (0, 5), (0, 3))


@pytest.mark.parametrize("pieces", [0, 14, 20])
def test_impossible_numbers_of_pieces_are_refused(graph: NeuronGraph, pieces: int) -> None:
    with pytest.raises(PlanError, match="pieces"):
        balanced(graph, pieces)
