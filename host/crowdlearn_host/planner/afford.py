"""Which classes of devices can afford which pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.stages.piece_stages import loss_region

from crowdlearn_host.planner.problem.costs import Costs, costs
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.planner.problem.places import caps_of
from crowdlearn_host.planner.problem.problem import Counts, Problem, uplink
from crowdlearn_host.planner.problem.seats import budgets, group_problem

from .plan import Plan


def affording(
    problem: Problem, costs: Costs, fleet: Fleet, counts: Sequence[Counts]
) -> dict[str, tuple[bool, ...]]:
    """Return whether a device of each class can afford each piece, the dominator's only with samples."""
    return {
        kind.name: tuple(
            _fits(problem, costs, kind, counts, piece) and (piece > 0 or kind.samples > 0)
            for piece in range(len(counts))
        )
        for kind in fleet.classes
    }


def _fits(problem: Problem, costs: Costs, kind: DeviceClass, counts: Sequence[Counts], piece: int) -> bool:
    caps = caps_of(kind, costs.sample_bytes)
    limits = budgets(costs, caps, follows=piece > 0)
    within = all(budget.use(counts[piece]) <= budget.limit * (1 + 1e-9) for budget in limits)
    return within and uplink(problem, counts, piece) <= caps.uplink * (1 + 1e-9)


def with_classes(
    cut: Plan, plan: Plan, graph: NeuronGraph, footprint: Callable[[int, Collection[int]], Footprint]
) -> Plan:
    """Return another cut of a planned network, with the classes that can afford its pieces as `plan` was
    reckoned.

    `footprint` tells what programs need for a micro-batch, and the regions that begin at some layers; it is
    asked if memory is capped.
    """
    if plan.fleet is None or plan.training is None:
        return cut
    training = replace(plan.training, micro_batch=plan.micro_batch, staleness=plan.staleness)
    known = None
    if any(kind.max_memory for kind in plan.fleet.classes):
        known = footprint(plan.micro_batch, {loss_region(graph, cut.pieces[0].owned)})
    priced = costs(graph, training, known)
    counts = [tuple(piece.owned[layers[0]] for layers in priced.layers) for piece in cut.pieces]
    afforded = affording(group_problem(priced, training, plan.fleet, 1), priced, plan.fleet, counts)
    return replace(
        cut,
        pieces=tuple(
            replace(piece, classes=tuple(name for name, able in afforded.items() if able[k]))
            for k, piece in enumerate(cut.pieces)
        ),
    )
