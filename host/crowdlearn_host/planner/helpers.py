"""A network and its cut for slices on shares: helpers have the linear maps, the dominator all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_export.graph.neuron_graph import Edge, Layer, NeuronGraph

from crowdlearn_host.errors import PlanError

from .plan import Plan, plan_from_counts
from .shares import HELPERS, PRODUCTS, shared_edges

PAIRS = ("kernel", "stride", "padding", "dilation")
"""Attributes of a convolution, heights first."""
PIECES = 1 + HELPERS
"""Pieces of a group with one triple."""
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


def convolution_messages(graph: NeuronGraph) -> tuple[pb.LinearMap, ...]:
    """Return what devices have to know of the maps on shares that are not dense."""
    found, owned = [], set(helper_layers(graph))
    for number, edge in enumerate(graph.edges):
        if edge.source in owned and edge.kind != "dense":
            pairs: Any = {name: edge.attributes[name] for name in PAIRS}
            found.append(pb.LinearMap(edge=number, kind=edge.kind, **pairs))
    return tuple(found)


def triples_of(pieces: int) -> int:
    """Return the triples of helpers of so many pieces. Raises PlanError if there is no such number."""
    triples, more = divmod(pieces - 1, HELPERS)
    if more or triples < 1:
        raise PlanError(
            f"{pieces} pieces on shares: a dominator and {HELPERS} helpers for each triple are "
            f"{1 + HELPERS}, {1 + 2 * HELPERS}, {1 + 3 * HELPERS}, ..."
        )
    return triples


def plan_for_helpers(graph: NeuronGraph, batch: int, triples: int = 1) -> Plan:
    """Return the plan of a graph with helper layers: the dominator's piece, and those of triples that compute
    alike much.

    Micro-batches are whole mini-batches of `batch` samples. Raises PlanError if no layer is shared, or if too
    few neurons are for so many triples.
    """
    owned = helper_layers(graph)
    if not owned:
        raise PlanError(f"{graph.name} has no linear map that could be on shares: it needs a hidden layer")
    return plan_of_triples(graph, batch, _alike(graph, owned, triples))


def plan_of_triples(graph: NeuronGraph, batch: int, held: Sequence[Mapping[int, int]]) -> Plan:
    """Return the plan in which each triple holds so many neurons of each helper layer."""
    owned = set(helper_layers(graph))
    counts = [[0 if layer.index in owned else layer.neurons for layer in graph.layers]]
    for of in held:
        for helper in range(HELPERS):
            counts.append([third(of.get(layer.index, 0), helper) for layer in graph.layers])
    return replace(plan_from_counts(graph, counts), micro_batch=batch)


def third(neurons: int, helper: int) -> int:
    """Return how many of a triple's neurons a helper keeps."""
    return neurons // HELPERS + (helper < neurons % HELPERS)


def held_by_triples(plan: Plan, graph: NeuronGraph) -> list[dict[int, int]]:
    """Return the neurons of each helper layer that each triple holds. Raises PlanError if the plan is not
    one of a dominator and triples whose helpers keep a third each.
    """
    found: list[dict[int, int]] = []
    for triple in range(triples_of(len(plan.pieces))):
        owned = [piece.owned for piece in plan.pieces[1 + HELPERS * triple :][:HELPERS]]
        found.append({layer: n for layer in helper_layers(graph) if (n := sum(own[layer] for own in owned))})
    due = plan_of_triples(graph, plan.micro_batch, found)
    few = any(n < HELPERS for of in found for n in of.values()) or not all(found)
    if few or [piece.neurons for piece in plan.pieces] != [piece.neurons for piece in due.pieces]:
        raise PlanError(
            "on shares each helper has a third of every map of its triple; plan again with --sums shares"
        )
    return found


def held_by_name(plan: Plan, graph: NeuronGraph) -> dict[str, tuple[int, ...]]:
    """Return the neurons of what enters each map that each triple holds, by the map's name."""
    held = held_by_triples(plan, graph)
    return {
        graph.outgoing(layer)[0].module: tuple(of.get(layer, 0) for of in held)
        for layer in helper_layers(graph)
    }


def _alike(graph: NeuronGraph, owned: Sequence[int], triples: int) -> list[dict[int, int]]:
    """Return neurons of helper layers by triple: the layers in a row are cut where products are alike."""
    left = {layer: graph.layers[layer].neurons for layer in owned}
    room = sum(n // HELPERS for n in left.values())
    if triples > room:
        raise PlanError(
            f"{graph.name} has neurons for {room} triples of helpers, not {triples}; set group.pieces = "
            f"{1 + HELPERS * room} or less"
        )
    each = {}
    for layer in owned:
        edge = graph.outgoing(layer)[0]
        products = PRODUCTS["forward"] + PRODUCTS["gradient"]
        if graph.incoming(layer)[0].source:
            products += PRODUCTS["backward"]
        each[layer] = products * edge.macs / graph.layers[layer].neurons
    found: list[dict[int, int]] = []
    for after in reversed(range(triples)):
        due = sum(each[layer] * n for layer, n in left.items()) / (after + 1)
        of: dict[int, int] = {}
        for layer, n in left.items():
            others = sum(m // HELPERS for at, m in left.items() if at != layer)
            # Neither this triple nor a later one can do with fewer neurons than it has helpers.
            able = [
                k
                for k in range(n + 1)
                if (k >= HELPERS or (of and not k)) and (n - k >= HELPERS or n == k)
                if others + (n - k) // HELPERS >= after
            ]
            wanted = due / each[layer] if after else n
            taken = min(able, key=lambda k: abs(k - wanted), default=0) if n else 0
            if taken:
                of[layer] = taken
                left[layer] -= taken
                due -= each[layer] * taken
            if left[layer]:
                break
        found.append(of)
    return found
