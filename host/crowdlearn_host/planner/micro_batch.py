"""The largest micro-batch that every device has the memory for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.stages.piece_stages import loss_region

from crowdlearn_host.errors import InfeasiblePlan, PlanError
from crowdlearn_host.planner.problem.costs import Training, WireFormat, costs
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES

from .messages import check_messages
from .planner import Planned, plan_fleet

LEAST_ROWS = 2
"""Batch norm has no variance of a single sample."""


def sample_seconds(graph: NeuronGraph, fleet: Fleet, wire: WireFormat) -> float:
    """Return how long the slowest dominator's uplink is busy with one sample's sums into the first hidden
    layers; 0 if no link was measured.
    """
    targets = [graph.layers[edge.target] for edge in graph.outgoing(0)]
    floats = sum(layer.neurons * layer.sum_floats for layer in targets)
    rates = [k.uplink_bytes_per_second for k in fleet.classes if k.samples and k.uplink_bytes_per_second]
    return wire.dtype_bytes * floats / min(rates) if rates else 0.0


def plan_with_micro_batch(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    footprint: Callable[[int, Collection[int]], Footprint | None],
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
    compare: bool = True,
) -> Planned:
    """Return a plan for micro-batches of `training`, halved until the fleet's memory suffices.

    `footprint` tells what programs need for a micro-batch: layers, and the regions that begin at some layers.
    A region takes long to learn, so it is asked for when a plan would have it. Raises InfeasiblePlan, of the
    first size, if no size helps. Raises PlanError if batch norm would have no variance, or a message would be
    too large.
    """
    _check_least(graph, fleet, training)
    capped = any(kind.max_memory for kind in fleet.classes)
    rows, first = training.micro_batch, None
    regions = {0} if capped and _may_hold_all(graph, fleet, training) else set[int]()
    while True:
        smaller = replace(training, micro_batch=rows)
        try:
            planned = plan_fleet(
                graph,
                fleet,
                smaller,
                group_size=group_size,
                seconds=seconds,
                compare=compare,
                footprint=footprint(rows, regions),
            )
            layout = [piece.neurons for piece in planned.plan.pieces]
            check_messages(graph, layout, rows + 1, training.wire.dtype_bytes)
            region = loss_region(graph, planned.plan.pieces[0].owned)
            if not capped or region in (*regions, len(graph.layers) - 1):
                return planned
            regions.add(region)
        except InfeasiblePlan as error:
            first = first or error
            if not capped or rows <= LEAST_ROWS:
                raise first from None
            rows = max(rows // 2, LEAST_ROWS)


def _check_least(graph: NeuronGraph, fleet: Fleet, training: Training) -> None:
    """Raise PlanError if batch norm would have no variance."""
    least = graph.least_rows
    if min(training.batch, training.micro_batch) < least:
        raise PlanError(
            f"batch norm has no variance of one sample; take batches and micro-batches of {least}"
        )
    few = [name for kind in fleet.classes if 0 < kind.samples < least for name in kind.names]
    if few:
        raise PlanError(
            f"{few[0]} holds one sample, of which batch norm has no variance; "
            f"give it {least}, or leave it out"
        )


def _may_hold_all(graph: NeuronGraph, fleet: Fleet, training: Training) -> bool:
    """Return whether a dominator may have the memory for the whole network, as far as its state alone
    tells.
    """
    priced = costs(graph, training)
    least = PROCESS_BYTES + priced.state
    caps = [kind.max_memory for kind in fleet.classes if kind.samples and kind.max_memory]
    return not caps or min(caps) >= least
