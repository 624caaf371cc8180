"""Bytes that training moves inside a group, *modelled* from the plan; nothing is sent in a simulation."""

from __future__ import annotations

from crowdlearn_export.graph import NeuronGraph

from ..planner.plan import Plan


def sums_per_sample(graph: NeuronGraph, plan: Plan) -> int:
    """Floats that cross between pieces forward for one sample; as many errors go back.

    One sum per (source piece, target neuron that another piece owns): slicenet.md, section 2.
    """
    floats = 0
    for edge in graph.edges:
        matched = edge.kind in ("identity", "depthwise")
        target = graph.layers[edge.target]
        for piece in plan.pieces:
            sources, own = piece.neurons[edge.source], piece.neurons[edge.target]
            if sources[1] > sources[0]:
                wanted = sources if matched else (0, target.neurons)
                kept = max(0, min(wanted[1], own[1]) - max(wanted[0], own[0]))
                floats += (wanted[1] - wanted[0] - kept) * target.sum_floats
    return floats
