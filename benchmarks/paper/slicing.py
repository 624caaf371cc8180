"""How the paper slices (METIS on the plain edge cut) and a layer-by-layer cut, under one accounting.

n slices hold the hidden neurons at equal load; piece 0 is the dominator's input and output layer. A neuron's
load is 1 + its out-edges, as in the paper.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from crowdlearn.planning import Plan, plan_from_counts
from crowdlearn.simulation import sums_per_sample
from crowdlearn_export.graph.neuron_graph import NeuronGraph

METIS_SEEDS = 5
IMBALANCE = 30
"""METIS's ufactor: the largest slice may be 30 thousandths above the mean, as in the paper."""


def layered(graph: NeuronGraph, slices: int) -> Plan:
    """Neurons in layer order, cut into `slices` of equal load: a slice lies in one layer, seldom in two."""
    counts = _counts(graph, slices)
    each = _loads(graph)
    total = sum(each[layer] * graph.layers[layer].neurons for layer in _hidden(graph))
    done = 0
    for layer in _hidden(graph):
        for _ in range(graph.layers[layer].neurons):
            counts[1 + min(slices - 1, done * slices // total)][layer] += 1
            done += each[layer]
    return plan_from_counts(graph, counts)


def metis(graph: NeuronGraph, slices: int) -> Plan | None:
    """The paper's slicing, the best of METIS_SEEDS seeds; None where pymetis is not installed."""
    try:
        import pymetis
    except ImportError:
        return None
    plans = [_metis(pymetis, graph, slices, seed) for seed in range(METIS_SEEDS)]
    return min(plans, key=lambda plan: sums_per_sample(graph, plan))


def imbalance(graph: NeuronGraph, plan: Plan) -> float:
    """The largest slice's load over the mean."""
    each = _loads(graph)
    loads = [
        sum(each[layer] * (piece.neurons[layer][1] - piece.neurons[layer][0]) for layer in _hidden(graph))
        for piece in plan.pieces[1:]
    ]
    return max(loads) * len(loads) / sum(loads)


def _metis(pymetis: Any, graph: NeuronGraph, slices: int, seed: int) -> Plan:
    hidden = _hidden(graph)
    sizes = [graph.layers[layer].neurons for layer in hidden]
    starts = [0, *accumulate(sizes)]
    neighbours: list[list[int]] = [[] for _ in range(starts[-1])]
    for edge in graph.edges:
        if edge.source in hidden and edge.target in hidden:
            sources = range(starts[edge.source - 1], starts[edge.source])
            targets = range(starts[edge.target - 1], starts[edge.target])
            for source in sources:
                neighbours[source] += targets
            for target in targets:
                neighbours[target] += sources
    loads = [_loads(graph)[layer] for layer in hidden for _ in range(graph.layers[layer].neurons)]
    options = pymetis.Options(seed=seed, ufactor=IMBALANCE)
    _, slice_of = pymetis.part_graph(
        slices, adjacency=neighbours, vweights=loads, options=options, recursive=False
    )
    counts = _counts(graph, slices)
    order: list[tuple[int, ...]] = [() for _ in graph.layers]
    for layer, start, stop in zip(hidden, starts, starts[1:], strict=False):
        own = np.array(slice_of[start:stop])
        order[layer] = tuple(np.argsort(own, kind="stable").tolist())
        for number in range(slices):
            counts[number + 1][layer] = int((own == number).sum())
    return Plan(plan_from_counts(graph, counts).pieces, tuple(order))


def _hidden(graph: NeuronGraph) -> range:
    return range(1, len(graph.layers) - 1)


def _loads(graph: NeuronGraph) -> list[int]:
    return [
        1 + sum(graph.layers[edge.target].neurons for edge in graph.outgoing(layer))
        for layer in range(len(graph.layers))
    ]


def _counts(graph: NeuronGraph, slices: int) -> list[list[int]]:
    counts = [[0] * len(graph.layers) for _ in range(slices + 1)]
    counts[0][0], counts[0][-1] = graph.layers[0].neurons, graph.layers[-1].neurons
    return counts
