"""Bytes that training moves inside a group, *modelled* from the plan; nothing is sent in a simulation."""

from __future__ import annotations

from itertools import compress

import numpy as np
from crowdlearn_device.privacy.masked import LEAST_SENDERS
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from numpy.typing import NDArray

from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.bundles import PAIRED
from crowdlearn_host.spec.simulation import SimulationConfig


def sums_per_sample(graph: NeuronGraph, plan: Plan) -> int:
    """Return floats that cross between pieces forward for one sample: one sum per (source piece, target
    neuron that another piece owns), as in SliceNet.
    """
    return sum(_crossing(graph, plan))


def masked_per_sample(graph: NeuronGraph, plan: Plan) -> int:
    """Return floats of those forward that several pieces send for one neuron: they travel masked, if
    any do.
    """
    found = 0
    for edge in graph.edges:
        if edge.kind in PAIRED:
            continue
        senders = [
            piece for piece in plan.pieces if piece.neurons[edge.source][1] > piece.neurons[edge.source][0]
        ]
        for piece in plan.pieces:
            start, stop = piece.neurons[edge.target]
            others = len(senders) - (piece in senders)
            if others >= LEAST_SENDERS:
                found += others * (stop - start) * graph.layers[edge.target].sum_floats
    return found


def errors_per_sample(graph: NeuronGraph, plan: Plan) -> int:
    """Return floats that come back: as many, where something learns from them."""
    return sum(compress(_crossing(graph, plan), graph.taught))


def _crossing(graph: NeuronGraph, plan: Plan) -> list[int]:
    """Return floats that cross on each edge."""
    crossing = []
    for edge in graph.edges:
        matched = edge.kind in ("identity", "depthwise")
        target = graph.layers[edge.target]
        floats = 0
        for piece in plan.pieces:
            sources, own = piece.neurons[edge.source], piece.neurons[edge.target]
            if sources[1] > sources[0]:
                wanted = sources if matched else (0, target.neurons)
                kept = max(0, min(wanted[1], own[1]) - max(wanted[0], own[0]))
                floats += (wanted[1] - wanted[0] - kept) * target.sum_floats
        crossing.append(floats)
    return crossing


def shuffle_bytes(
    config: SimulationConfig, pieces: NDArray[np.int32], frozen: NDArray[np.bool_], narrowed: float = 1.0
) -> int:
    """Return bytes of state that change hands after one pass; `pieces`, int32 [floats], is the piece of each
    weight. Those that are `frozen`, bool [floats], have nothing else, and all of them together take
    `narrowed` of the bytes of float32.

    What the optimizer keeps moves with its weights, and so does accumulated |gradient| where theta leaves a
    choice to make.
    """
    if config.group == 1:
        return 0
    chosen = config.sharing.enabled and config.sharing.theta < 1
    kinds = np.where(frozen, narrowed, 1 + len(config.training.rule.slots) + chosen)
    if config.rotation == "full":
        return round(FLOAT * float(kinds.sum()))
    sizes = np.bincount(pieces, kinds)
    # The successor's piece goes the other way; which one it is, differs from pass to pass.
    others = float(sizes[1:].mean()) if len(sizes) > 1 else 0.0
    return round(FLOAT * (float(sizes[0]) + others))
