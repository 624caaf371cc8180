"""A network and its cut for slices on shares: helpers have the linear maps, the dominator all else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_export.graph.neuron_graph import Edge, Layer, NeuronGraph

from crowdlearn_host.errors import PlanError

from .plan import Plan, plan_from_counts
from .shares import HELPERS, shared_edges

PAIRS = ("kernel", "stride", "padding", "dilation")
"""Attributes of a convolution, heights first."""
SUFFIX = ".shared"
"""The end of the name of a layer that helpers own, behind that of its linear map."""


def with_helper_layers(graph: NeuronGraph, *, first_layer: bool) -> NeuronGraph:
    """Insert into each shared edge a layer that passes its source's outputs on, and owns the edge.

    Such a layer has no operations: what enters it leaves it. The network computes what it did. Raises
    PlanError if the first layer cannot be shared.
    """
    if first_layer and graph.layers[0].neurons < HELPERS:
        raise PlanError(
            f"{graph.name} has {graph.layers[0].neurons} input channels, too few for three helpers; take "
            "privacy.first_layer = 'kept'"
        )
    if any(op.kind == "product" for layer in graph.layers for op in layer.ops):
        raise PlanError(
            f"{graph.name} multiplies activations by each other, as squeeze-and-excite does, which slices on "
            "shares do not; leave out privacy.sums = 'shares'"
        )
    shared = set(shared_edges(graph, first_layer=first_layer))
    layers: list[Layer] = []
    place: dict[int, int] = {}
    passing: dict[int, int] = {}
    for layer in graph.layers:
        place[layer.index] = len(layers)
        layers.append(replace(layer, index=len(layers)))
        for number in sorted(shared):
            if graph.edges[number].source == layer.index:
                passing[number] = len(layers)
                name, shape = f"{graph.edges[number].module}{SUFFIX}", layer.output_shape
                added = Layer(len(layers), name, layer.neurons, sum_shape=shape, output_shape=shape)
                layers.append(added)
    edges = [
        replace(edge, source=passing.get(number, place[edge.source]), target=place[edge.target])
        for number, edge in enumerate(graph.edges)
    ]
    edges += [Edge(place[graph.edges[number].source], at, "identity") for number, at in passing.items()]
    edges.sort(key=lambda edge: (edge.source, edge.target))
    return replace(graph, layers=tuple(layers), edges=tuple(edges))


def helper_layers(graph: NeuronGraph) -> tuple[int, ...]:
    """Return the layers that helpers own."""
    return tuple(layer.index for layer in graph.layers if layer.name.endswith(SUFFIX))


def convolutions_told(graph: NeuronGraph) -> tuple[pb.LinearMap, ...]:
    """Return what devices have to know of the maps on shares that are not dense."""
    found, owned = [], set(helper_layers(graph))
    for number, edge in enumerate(graph.edges):
        if edge.source in owned and edge.kind != "dense":
            pairs: Any = {name: edge.attributes[name] for name in PAIRS}
            found.append(pb.LinearMap(edge=number, kind=edge.kind, **pairs))
    return tuple(found)


def plan_for_helpers(graph: NeuronGraph, batch: int) -> Plan:
    """Return the plan of a graph with helper layers: the dominator's piece, and three with a third of these.

    Micro-batches are whole mini-batches of `batch` samples. Raises PlanError if no layer is shared.
    """
    owned = set(helper_layers(graph))
    if not owned:
        raise PlanError(f"{graph.name} has no linear map that could be on shares: it needs a hidden layer")
    counts = [[0 if layer.index in owned else layer.neurons for layer in graph.layers]]
    for helper in range(HELPERS):
        thirds = [layer.neurons // HELPERS + (helper < layer.neurons % HELPERS) for layer in graph.layers]
        counts.append([third if k in owned else 0 for k, third in enumerate(thirds)])
    return replace(plan_from_counts(graph, counts), micro_batch=batch)
