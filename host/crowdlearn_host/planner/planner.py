"""The planner: from a network and a fleet to the plan that relays least, with its certificate and
baselines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import inf

from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.problem.costs import Costs, Training, costs, sharing_bytes
from crowdlearn_host.planner.problem.fleet import Fleet, deal
from crowdlearn_host.planner.problem.memory import peak_memory
from crowdlearn_host.planner.problem.problem import Budget, Counts, Division, Problem, Seat, traffic, uplink
from crowdlearn_host.planner.problem.seats import group_problem, may_stay
from crowdlearn_host.planner.solver.piece_program import seat_classes
from crowdlearn_host.planner.solver.search import Solution, search

from .balanced import balanced
from .baselines import Baseline, absent, baselines
from .infeasibility import explain
from .plan import BudgetUse, Certificate, PiecePlan, Plan, Traffic, plan_from_counts
from .rotation import rotate

IMBALANCE = 1.03
"""Of slices, in the paper."""
LARGEST_GROUP = 50
"""Devices of a group that the planner proposes by itself: they take turns, so a large group is slow."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what the partitioners reach on the same problem."""

    plan: Plan
    baselines: tuple[Baseline, ...]
    absent: tuple[tuple[str, str], ...] = ()
    """Partitioners that were not run, and why."""


def plan_fleet(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
    compare: bool = True,
    footprint: Footprint | None = None,
) -> Planned:
    """The plan with the fewest relayed bytes per epoch that every device of the fleet can afford.

    Memory counts what programs need to run where `footprint` tells it. Without `group_size` the number of
    groups is decided too; the certificate then covers every number considered. Raises InfeasiblePlan, which
    says what to relax, where no plan meets every budget.
    """
    began = time.monotonic()
    options = _groupings(fleet, group_size)
    prices = {groups: costs(graph, training, groups, footprint) for groups in options}
    problems = {groups: group_problem(prices[groups], training, fleet, groups) for groups in options}
    compared: dict[int, list[Baseline]] = {}
    solutions: dict[int, Solution] = {}
    waiting = list(options)
    for share in (0.5, 1.0):
        for k, groups in enumerate(waiting):
            if groups not in compared:
                alone = compare and len(options) == 1
                compared[groups] = _compare(problems[groups], prices[groups]) if alone else []
            known = [baseline.division for baseline in compared[groups]]
            known += _even(graph, prices[groups], problems[groups])
            before = solutions[groups].division if groups in solutions else None
            known += [before] if before is not None else []
            left = (1.0 if len(options) == 1 else share) * seconds - (time.monotonic() - began)
            solutions[groups] = search(problems[groups], max(left, 0.2) / (len(waiting) - k), known)
        cheapest = min(solution.cost for solution in solutions.values())
        waiting = [g for g, s in solutions.items() if not s.infeasible and s.bound < cheapest * (1 - 1e-6)]
        if len(options) == 1:
            break
    feasible = {groups: s for groups, s in solutions.items() if s.division is not None}
    if not feasible:
        raise InfeasiblePlan(
            explain(
                problems[options[0]],
                fleet,
                all(s.infeasible for s in solutions.values()),
                prices[options[0]].sample_bytes,
                seconds,
            )
        )
    groups = min(feasible, key=lambda g: (feasible[g].cost, g))
    bound = min(
        inf if s.infeasible else s.bound - may_stay(prices[g], training, fleet, g)
        for g, s in solutions.items()
    )
    if compare and not compared[groups]:
        compared[groups] = _compare(problems[groups], prices[groups])
        for baseline in compared[groups]:
            if not baseline.broken and baseline.cost < feasible[groups].cost:
                feasible[groups] = replace(feasible[groups], division=baseline.division, cost=baseline.cost)
    division = feasible[groups].division
    assert division is not None
    plan = _plan(graph, prices[groups], training, fleet, problems[groups], division, groups)
    assert plan.traffic is not None
    total = plan.traffic.total
    if bound > total * (1 + 1e-9):
        raise AssertionError(f"the plan relays {total} bytes, less than the bound {bound}; please report it")
    certificate = Certificate(total, min(bound, total), time.monotonic() - began)
    return Planned(
        replace(plan, certificate=certificate),
        tuple(compared[groups]),
        tuple(absent(problems[groups]).items()) if compare else (),
    )


def _compare(problem: Problem, priced: Costs) -> list[Baseline]:
    return baselines(problem, [each.macs for each in priced.each])


def _groupings(fleet: Fleet, group_size: int | None) -> list[int]:
    """Numbers of groups to consider: one for every size that a group can have, up to LARGEST_GROUP."""
    largest = min(fleet.size, LARGEST_GROUP)
    sizes = range(1, largest + 1) if group_size is None else [min(group_size, fleet.size)]
    return sorted({fleet.size // size for size in sizes})


def _even(graph: NeuronGraph, priced: Costs, problem: Problem) -> list[Division]:
    """The whole network in one piece, and evenly over the followers of the strongest class, and of all."""
    seats = seat_classes(problem)
    divisions = []
    strongest = sum(seat.count for seat in problem.seats[1:2])
    for pieces in dict.fromkeys((1, 1 + strongest, len(seats))):
        if pieces <= 1 + sum(priced.neurons[b] for b in problem.free):
            plan = balanced(graph, pieces)
            counts = tuple(
                tuple(_width(piece, members[0]) for members in priced.layers) for piece in plan.pieces
            )
            divisions.append(Division(tuple(seats[:pieces]), counts))
    return divisions


def _width(piece: PiecePlan, layer: int) -> int:
    start, stop = piece.neurons[layer]
    return stop - start


def _plan(
    graph: NeuronGraph,
    priced: Costs,
    training: Training,
    fleet: Fleet,
    problem: Problem,
    division: Division,
    groups: int,
) -> Plan:
    by_layer = [_by_layer(priced, counts, len(graph.layers)) for counts in division.counts]
    plan = plan_from_counts(graph, by_layer)
    turned = [
        rotate(problem, priced, fleet, devices, division.counts, training.rotation)
        for devices in deal(fleet, groups)
    ]
    forward, backward = traffic(problem, division.counts)
    shuffled = sum(moved for _, moved in turned)
    return replace(
        plan,
        pieces=tuple(_piece(priced, problem, division, k, plan.pieces[k]) for k in range(len(plan.pieces))),
        rotation=training.rotation,
        micro_batch=training.micro_batch,
        staleness=training.staleness,
        training=training,
        groups=tuple(group for group, _ in turned),
        traffic=Traffic(forward, backward, shuffled, sharing_bytes(priced.parameters, training, groups)),
    )


def _by_layer(priced: Costs, counts: Counts, layers: int) -> list[int]:
    owned = [0] * layers
    for count, members in zip(counts, priced.layers, strict=True):
        for layer in members:
            owned[layer] = count
    return owned


def _piece(priced: Costs, problem: Problem, division: Division, k: int, piece: PiecePlan) -> PiecePlan:
    counts, seat = division.counts[k], problem.seats[division.seats[k]]
    sent = uplink(problem, division.counts, k)
    told = [BudgetUse(b.name, b.unit, b.use(counts), b.limit) for b in seat.budgets]
    uses = [
        max((u for u in told if u.name == n), key=lambda u: u.share)
        for n in dict.fromkeys(u.name for u in told)
    ]
    if seat.uplink < inf:
        uses.append(BudgetUse("uplink", "B", sent, seat.uplink))
    return replace(
        piece,
        seat=seat.name,
        macs=sum(n * each.macs for n, each in zip(counts, priced.each, strict=True)),
        memory_bytes=peak_memory(priced.memory, counts),
        uplink_bytes=sent,
        budgets=tuple(uses),
    )


def paper_problem(graph: NeuronGraph, slices: int) -> Problem:
    """The paper's accounting: floats sent forward per sample, `slices` followers of equal load, an idle
    dominator.

    A neuron's load is 1 + its out-edges; no slice carries more than IMBALANCE times the mean.
    """
    priced = costs(graph, Training())
    loads = tuple(
        1.0 + sum(e.macs for layer in members for e in graph.outgoing(layer)) / n
        for members, n in zip(priced.layers, priced.neurons, strict=True)
    )
    free = [b for b in range(len(priced.neurons)) if b not in priced.pinned]
    mean = sum(loads[b] * priced.neurons[b] for b in free) / slices
    budget = Budget("load", "edges", loads, (0.0,) * len(loads), 0.0, IMBALANCE * mean)
    return Problem(
        priced.neurons,
        priced.links,
        priced.pinned,
        (Seat("dominator", 1), Seat("follower", slices, (budget,))),
        dominator_hidden=False,
    )
