"""Bundles: layers whose neurons are paired one to one.

Identity and depthwise edges join neuron i to neuron i. A piece owns the same neurons at both ends, so that
nothing crosses the network there. The planner decides one count per bundle instead of one per layer.
"""

from __future__ import annotations

from crowdlearn_export.graph.neuron_graph import NeuronGraph

PAIRED = ("identity", "depthwise")


def bundles(graph: NeuronGraph) -> tuple[tuple[int, ...], ...]:
    """Return the layers of every bundle, in order of their first layer; most bundles are a single layer."""
    leader = list(range(len(graph.layers)))

    def find(layer: int) -> int:
        while leader[layer] != layer:
            layer = leader[layer]
        return layer

    for edge in graph.edges:
        if edge.kind in PAIRED:
            first, second = sorted((find(edge.source), find(edge.target)))
            leader[second] = first
    members: dict[int, list[int]] = {}
    for layer in range(len(graph.layers)):
        members.setdefault(find(layer), []).append(layer)
    return tuple(tuple(layers) for layers in members.values())
