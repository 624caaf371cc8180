"""Which methods the program of a piece has: one for each layer and direction, but none backward where nothing
learns, and one for the region that turns round at the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_device.optimizers.base import Optimizer

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs, piece_shape
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY

from .clipped_region import ClippedRegion
from .clipped_whole import ClippedWhole
from .ghosts import without_ghost
from .layer_stages import layer_stages
from .metrics import metrics_stage
from .region import LossRegion
from .stage import Stage
from .uses.norms import plan_of


def piece_stages(
    graph: NeuronGraph,
    owned: Sequence[int],
    optimizer: Optimizer,
    loss: Loss = CROSS_ENTROPY,
    *,
    first: int = 0,
    private: bool = False,
) -> tuple[Stage, ...]:
    """Return every stage of a piece that owns `owned[layer]` neurons of each layer; layers before `first`
    have stages of their own in any case. If `private`, stages give the norms of samples' gradients where
    all that learns has such (`unknown_norms`), for steps of DP-SGD.

    Raises UnsupportedModule if a layer has no sliced form.
    """
    shape = piece_shape(graph, owned, loss.targets(*graph.scores))
    first = max(first, loss_region(graph, owned))
    squares = private and not unknown_norms(graph)
    stages: list[Stage] = []
    for index, count in enumerate(owned[:first]):
        if count:
            stages += layer_stages(graph, index, shape, squares=squares)
    if first < len(owned):
        clipped = ClippedRegion if graph.whole is None else ClippedWhole
        region = (clipped if squares else LossRegion)(graph, first, shape, loss)
        stages.append(region.gradients())
        if loss.watched:
            stages.append(metrics_stage(shape, loss))
        if first == 0 and not optimizer.clip_norm and not private:  # else clipping comes between
            stages.append(region.train_step(optimizer))
    return tuple(stages)


def unknown_norms(graph: NeuronGraph) -> str:
    """Return why no norms of samples' gradients can be had of this network's programs; "" if they can."""
    if graph.whole is not None:
        return plan_of(graph).unknown
    found = without_ghost(graph)
    return f"no rule gives the norm of {found}" if found else ""


def clipping_doubt(graph: NeuronGraph) -> str:
    """Return what a user should know of steps of DP-SGD with this network, in words; "" if one call clips."""
    if any(array.role == "buffer" for array in array_specs(graph)):
        return "batch norm mixes samples, so that none can be clipped by itself; use group or layer norm"
    why = unknown_norms(graph)
    return f"devices compute each sample's gradient alone, exact and slow: {why}" if why else ""


def loss_region(graph: NeuronGraph, owned: Sequence[int]) -> int:
    """Return the first of the last layers that a piece owns whole: no message can come between them.

    Raises UnsupportedModule for a part of the output layer.
    """
    first = len(owned)
    while first and owned[first - 1] == graph.layers[first - 1].neurons:
        first -= 1
    if first == len(owned) and owned[-1]:
        raise UnsupportedModule("the output layer stays whole, on the dominator; plan it so")
    return first
