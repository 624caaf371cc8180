"""The largest micro-batch that every device has the memory for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from crowdlearn_export.footprint import Footprint
from crowdlearn_export.graph import NeuronGraph

from ..errors import InfeasiblePlan
from .costs import Training, WireFormat
from .fleet import Fleet
from .planner import Planned, plan_fleet

LEAST_ROWS = 2
"""Batch norm has no variance of a single sample."""


def sample_seconds(graph: NeuronGraph, fleet: Fleet, wire: WireFormat) -> float:
    """How long the slowest dominator's uplink is busy with one sample's sums into the first hidden layers; 0
    where no link was measured.
    """
    targets = [graph.layers[edge.target] for edge in graph.outgoing(0)]
    floats = sum(layer.neurons * layer.sum_floats for layer in targets)
    rates = [k.uplink_bytes_per_second for k in fleet.classes if k.samples and k.uplink_bytes_per_second]
    return wire.dtype_bytes * floats / min(rates) if rates else 0.0


def plan_with_micro_batch(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    footprint: Callable[[int], Footprint | None],
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
    compare: bool = True,
) -> Planned:
    """A plan for micro-batches of `training`, halved until the fleet's memory suffices.

    `footprint` tells what programs need for a micro-batch. Raises InfeasiblePlan, of the first, where no size
    helps.
    """
    capped = any(kind.max_memory for kind in fleet.classes)
    rows, first = training.micro_batch, None
    while True:
        smaller = replace(training, micro_batch=rows)
        try:
            return plan_fleet(
                graph,
                fleet,
                smaller,
                group_size=group_size,
                seconds=seconds,
                compare=compare,
                footprint=footprint(rows),
            )
        except InfeasiblePlan as error:
            first = first or error
            if not capped or rows <= LEAST_ROWS:
                raise first from None
            rows = max(rows // 2, LEAST_ROWS)
