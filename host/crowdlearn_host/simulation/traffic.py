"""Bytes that training moves inside a group, *modelled* from the plan; nothing is sent in a simulation."""

from __future__ import annotations

import numpy as np
from crowdlearn_export.graph import FLOAT, NeuronGraph
from numpy.typing import NDArray

from ..planner.plan import Plan
from .config import SimulationConfig


def sums_per_sample(graph: NeuronGraph, plan: Plan) -> int:
    """Floats that cross between pieces forward for one sample; as many errors go back.

    One sum per (source piece, target neuron that another piece owns): SliceNet.
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


def shuffle_bytes(config: SimulationConfig, pieces: NDArray[np.int32]) -> int:
    """Bytes of state that change hands after one pass; `pieces` is the piece of each weight.

    Momentum moves with its weights, and so does accumulated |gradient| where theta leaves a choice to make.
    """
    if config.group == 1:
        return 0
    chosen = config.sharing.enabled and config.sharing.theta < 1
    kinds = 1 + (config.training.momentum > 0) + chosen
    if config.rotation == "full":
        return FLOAT * kinds * len(pieces)
    sizes = np.bincount(pieces)
    # The successor's piece goes the other way; which one it is, differs from pass to pass.
    return round(FLOAT * kinds * (float(sizes[0]) + float(sizes[1:].mean())))
