"""The micro-batch of a run without measured links: one that computes as long as its messages cost."""

from __future__ import annotations

from math import ceil

from crowdlearn_export.graph.neuron_graph import NeuronGraph

from crowdlearn_host.coordinator.hub.traffic_ledger import exchanged_messages
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.problem.fleet import Fleet

from .run_spec import ALONE_ROWS, LINK_SECONDS, TrainingSection, micro_rows

MESSAGE_SECONDS = 300e-6
"""CPU time of one message at its sender, the relay and its receiver, all in (benchmarks/message_cost.py)."""
MACS_PER_SECOND = 5e9
"""Multiplications a second of one core of a phone, if they were not measured."""


def rows_of(training: TrainingSection, graph: NeuronGraph, plan: Plan) -> int:
    """Return samples of a micro-batch: the configuration's or the plan's, or else `cheapest_rows`.

    Raises ConfigError if the configuration's is more than the plan's.
    """
    pieces = len(plan.pieces)
    chosen = training.micro_rows(plan.micro_batch, pieces=pieces)
    if training.micro_batch or plan.micro_batch or pieces == 1:
        return chosen
    return cheapest_rows(graph, plan, training.batch)


def rows_for(graph: NeuronGraph, plan: Plan, fleet: Fleet, batch: int, sample_seconds: float) -> int:
    """Return the cheapest rows by what was measured on a fleet, whose slowest link is busy for
    `sample_seconds` with one sample of the dominator's: no more than it carries in LINK_SECONDS. 0 if not
    every class has `message_seconds`.
    """
    costs = [kind.message_seconds for kind in fleet.classes if kind.message_seconds is not None]
    if len(costs) < len(fleet.classes):
        return 0
    rows = cheapest_rows(graph, plan, batch, max(costs), min(kind.macs_per_second for kind in fleet.classes))
    return min(rows, int(LINK_SECONDS / sample_seconds)) if sample_seconds else rows


def cheapest_rows(
    graph: NeuronGraph,
    plan: Plan,
    batch: int,
    message_seconds: float = MESSAGE_SECONDS,
    macs_per_second: float = MACS_PER_SECOND,
) -> int:
    """Return rows of equal parts of a mini-batch, as many parts as keep messages below half of a run's CPU
    time.

    Never fewer rows than `micro_rows`, nor more than a device that holds the whole network takes at once.
    """
    messages = exchanged_messages(graph, tuple(piece.neurons for piece in plan.pieces))
    computing = sum(piece.macs for piece in plan.pieces) / macs_per_second
    worth = messages * message_seconds / max(computing, 1e-12)
    parts = max(1, int(batch / max(micro_rows(batch), worth)), ceil(batch / ALONE_ROWS))
    return ceil(batch / parts)
