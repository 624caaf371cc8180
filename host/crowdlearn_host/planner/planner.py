"""The planner: from a network and a fleet to the plan that sends least, with its certificate and
baselines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf

from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.problem.costs import Costs, Training, costs
from crowdlearn_host.planner.problem.fleet import Fleet, deal
from crowdlearn_host.planner.problem.memory import peak_memory
from crowdlearn_host.planner.problem.places import Tree, compositions, trees
from crowdlearn_host.planner.problem.problem import Budget, Counts, Division, Problem, Seat, uplink
from crowdlearn_host.planner.problem.seats import group_problem, may_stay
from crowdlearn_host.planner.solver.clock import Deadline, Stopwatch
from crowdlearn_host.planner.solver.moves import improved
from crowdlearn_host.planner.solver.piece_program import seat_classes
from crowdlearn_host.planner.solver.search import CLOSED, Solution, search

from .afford import affording
from .balanced import balanced
from .baselines import Baseline, absent, baselines
from .infeasibility import explain
from .plan import BudgetUse, Certificate, PiecePlan, Plan, plan_from_counts
from .rotation import rotate
from .spending.epoch_bytes import epoch_traffic
from .spending.joules import epoch_joules
from .spending.masked import least_share, masked_more

IMBALANCE = 1.03
"""The imbalance of slices in the paper."""
TIGHTENINGS, TIGHTER = 8, 0.97
"""Attempts to keep energy within its caps, and how much closer than proportional each comes."""
CANDIDATES = 3
"""Numbers of groups, and trees, whose divisions are rotated: those that seem cheapest."""
SMALL_FLEET = 32
"""Devices up to which every number of groups is considered."""
FIRST_SECONDS = 0.5
"""Processor seconds of the first look at a number of groups; every further one takes twice as long."""


@dataclass(frozen=True)
class Planned:
    """A plan, and what the partitioners reach on the same problem, in `compared_seconds` by the clock, which
    the time limit does not count.
    """

    plan: Plan
    baselines: tuple[Baseline, ...]
    absent: tuple[tuple[str, str], ...] = ()
    compared_seconds: float = 0.0


@dataclass(frozen=True)
class _Option:
    """A number of groups, and a tree that joins the classes of dominators."""

    groups: int
    tree: Tree


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
    """Return the plan that sends fewest bytes per epoch and that every device of the fleet can afford.

    Memory counts what programs need to run if `footprint` tells it. Without `group_size` the number of
    groups is decided too; the certificate then covers every number considered. `seconds` are of the
    processor. Energy is capped by tightening what classes that spend too much may compute and send, until
    they keep to it: the bound is that of plans without these caps. Raises InfeasiblePlan, which says what to
    relax, if no plan meets every budget.
    """
    tightened, bound = fleet, 0.0
    least: dict[str, float] = {}
    for _ in range(TIGHTENINGS):
        try:
            planned = _plan_fleet(
                graph,
                tightened,
                training,
                group_size=group_size,
                seconds=seconds,
                compare=compare,
                footprint=footprint,
            )
        except InfeasiblePlan as error:
            if not least:
                raise
            raise InfeasiblePlan(_too_much_energy(fleet, least)) from error
        plan = planned.plan
        assert plan.certificate is not None
        bound = bound or plan.certificate.bound
        over = _over_joules(plan, fleet)
        if not over:
            certificate = replace(plan.certificate, bound=min(bound, plan.certificate.cost))
            return replace(planned, plan=replace(plan, fleet=fleet, certificate=certificate))
        for name, spent in over.items():
            least[name] = min(spent, least.get(name, inf))
        tightened = _tightened(tightened, plan, over)
    raise InfeasiblePlan(_too_much_energy(fleet, least))


def _over_joules(plan: Plan, fleet: Fleet) -> dict[str, float]:
    """Return the classes of which a device spends more than it may, and the most that one spends."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    over: dict[str, float] = {}
    for spent in plan.joules:
        kind = kinds[spent.device]
        if kind.joules_limit is not None and spent.total > kind.joules_limit:
            over[kind.name] = max(spent.total, over.get(kind.name, 0.0))
    return over


def _tightened(fleet: Fleet, plan: Plan, over: dict[str, float]) -> Fleet:
    """Return the fleet with less to compute and send for classes that spend too much."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    held: dict[str, list[PiecePlan]] = {}
    for group in plan.groups:
        for turn in group.turns:
            for k, device in enumerate(turn.devices):
                if k:
                    held.setdefault(kinds[device].name, []).append(plan.pieces[k])
    classes = []
    for kind in fleet.classes:
        if kind.name in over and kind.joules_limit is not None:
            share = TIGHTER * kind.joules_limit / over[kind.name]
            pieces = held.get(kind.name, [])
            macs = share * max((piece.macs for piece in pieces), default=0.0)
            sent = share * max((piece.uplink_bytes for piece in pieces), default=0.0)
            if kind.samples:  # it is dominator in its turn, whatever else it holds
                macs, sent = max(macs, plan.pieces[0].macs), max(sent, plan.pieces[0].uplink_bytes)
            caps = {"max_macs": ceil(macs) or 1, "max_uplink": ceil(sent) or 1}
            kind = kind.model_copy(update=caps)
        classes.append(kind)
    return fleet.model_copy(update={"classes": tuple(classes)})


def _too_much_energy(fleet: Fleet, least: dict[str, float]) -> str:
    lines = [
        f"{least[kind.name]:,.3g} J an epoch on {kind.name} (limit {kind.joules_limit:,.3g})"
        for kind in fleet.classes
        if kind.name in least and kind.joules_limit is not None
    ]
    return (
        "no plan that keeps to every energy budget was found; the nearest takes "
        f"{' and '.join(lines)}; raise the limit, or give samples or pieces to more devices"
    )


def _plan_fleet(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
    compare: bool = True,
    footprint: Footprint | None = None,
) -> Planned:
    priced = costs(graph, training, footprint)
    options = [
        _Option(groups, tree)
        for groups in _groupings(fleet, group_size)
        for tree in trees(fleet, priced.sample_bytes)
    ]
    problems = {o: group_problem(priced, training, fleet, o.groups, o.tree) for o in options}
    comparing, compared = Stopwatch.start(), dict[_Option, list[Baseline]]()
    if compare and len(options) == 1:
        compared[options[0]] = _compare(problems[options[0]], priced)
    compared_seconds = comparing.seconds
    watch = Stopwatch.start()
    known = {
        o: [*_even(graph, priced, problems[o]), *(b.division for b in compared.get(o, []))] for o in options
    }
    deadline = Deadline.after(seconds)
    solutions = _searched(problems, known, deadline)
    feasible = {o: s for o, s in solutions.items() if s.division is not None}
    if not feasible:
        proven = all(s.infeasible for s in solutions.values())
        raise InfeasiblePlan(
            explain(problems[options[0]], fleet, proven, priced.sample_bytes, seconds, training.leaks)
        )
    plans = []
    for option in sorted(feasible, key=lambda o: (feasible[o].cost, o.groups))[:CANDIDATES]:
        division = feasible[option].division
        assert division is not None
        if training.rotation == "full":  # what stays in place is not what was searched by
            rotated = partial(_rotated, priced, training, fleet, problems[option], option)
            division = improved(problems[option], division, rotated, deadline)
        plans.append((option, _plan(graph, priced, training, fleet, problems[option], division, option)))
    best, plan = min(plans, key=lambda found: _sent(found[1]))
    spent = watch.seconds, watch.processor_seconds
    bound = min(
        inf if s.infeasible else s.bound - may_stay(priced, training, fleet, o.groups)
        for o, s in solutions.items()
    )
    if compare and best not in compared:
        comparing = Stopwatch.start()
        compared[best] = _compare(problems[best], priced)
        compared_seconds = comparing.seconds
        for baseline in compared[best]:
            if not baseline.broken and baseline.cost < feasible[best].cost:
                other = _plan(graph, priced, training, fleet, problems[best], baseline.division, best)
                plan = min(plan, other, key=_sent)
    total = _sent(plan)
    if training.sums == "masked":
        bound *= least_share(training.wire.dtype_bytes)
    if bound > total * (1 + 1e-9):
        raise AssertionError(f"the plan sends {total} bytes, less than the bound {bound}; please report it")
    return Planned(
        replace(plan, certificate=Certificate(total, min(bound, total), *spent)),
        tuple(compared.get(best, ())),
        tuple(absent(problems[best]).items()) if compare else (),
        compared_seconds,
    )


def _sent(plan: Plan) -> float:
    assert plan.traffic is not None
    return plan.traffic.total


def _searched(
    problems: dict[_Option, Problem], known: dict[_Option, list[Division]], deadline: Deadline
) -> dict[_Option, Solution]:
    """Return a solution of every problem. Those that may still be the cheapest are searched ever longer,
    until one is proven to be or the time is up.
    """
    solutions: dict[_Option, Solution] = {}
    waiting, seconds = list(problems), FIRST_SECONDS
    while waiting:
        for k, option in enumerate(waiting):
            left = deadline.left
            if option in solutions and left <= 0:
                break
            is_last = len(waiting) == 1 and option in solutions
            share = left if is_last or len(problems) == 1 else min(seconds, left / (len(waiting) - k))
            before = solutions.get(option)
            found = search(problems[option], max(share, 0.2), known[option])
            if before is not None:
                found = replace(found, bound=max(found.bound, before.bound))
            solutions[option] = found
            known[option] += [found.division] if found.division is not None else []
        cheapest = min(solution.cost for solution in solutions.values())
        waiting = [o for o, s in solutions.items() if not s.infeasible and _is_open(s, cheapest)]
        waiting.sort(key=lambda o: solutions[o].bound)
        if len(problems) == 1 or deadline.left <= 0:
            break
        seconds *= 2
    return solutions


def _is_open(solution: Solution, cheapest: float) -> bool:
    return solution.bound < cheapest - CLOSED * abs(cheapest) if cheapest < inf else True


def _compare(problem: Problem, priced: Costs) -> list[Baseline]:
    return baselines(problem, [each.macs for each in priced.each])


def _groupings(fleet: Fleet, group_size: int | None) -> list[int]:
    """Return numbers of groups to consider: every one in a small fleet, else one for every size that a group
    can have; each group has a dominator.
    """
    sizes = range(1, fleet.size + 1) if group_size is None else [min(group_size, fleet.size)]
    every = group_size is None and fleet.size <= SMALL_FLEET
    numbers = list(sizes) if every else sorted({fleet.size // size for size in sizes})
    able = [groups for groups in numbers if all(c.dominators for c in compositions(fleet, groups))]
    if not able:
        raise InfeasiblePlan(
            f"of {numbers[0]} groups not every one has a device with samples; "
            "make groups larger, or give samples to more devices"
        )
    return able


def _even(graph: NeuronGraph, priced: Costs, problem: Problem) -> list[Division]:
    """Return the whole network in one piece, and evenly over the followers of the strongest class, and of
    all.
    """
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


def _rotated(
    priced: Costs, training: Training, fleet: Fleet, problem: Problem, option: _Option, division: Division
) -> float:
    """Return bytes of an epoch of a division, its turns made; inf if there are none."""
    try:
        turned = tuple(
            rotate(problem, priced, fleet, devices, division.counts, training.rotation, option.tree)
            for devices in deal(fleet, option.groups)
        )
    except InfeasiblePlan:
        return inf
    return epoch_traffic(priced, training, fleet, problem, division.counts, turned).total


def _plan(
    graph: NeuronGraph,
    priced: Costs,
    training: Training,
    fleet: Fleet,
    problem: Problem,
    division: Division,
    option: _Option,
) -> Plan:
    by_layer = [_by_layer(priced, counts, len(graph.layers)) for counts in division.counts]
    plan = plan_from_counts(graph, by_layer)
    turned = tuple(
        rotate(problem, priced, fleet, devices, division.counts, training.rotation, option.tree)
        for devices in deal(fleet, option.groups)
    )
    afforded = affording(problem, priced, fleet, division.counts)
    pieces = tuple(
        replace(
            _piece(priced, problem, division, k, plan.pieces[k]),
            classes=tuple(kind.name for kind in fleet.classes if afforded[kind.name][k]),
        )
        for k in range(len(plan.pieces))
    )
    traffic = epoch_traffic(priced, training, fleet, problem, division.counts, turned)
    if training.sums == "masked":
        more = masked_more(priced.links, division.counts, training.wire.dtype_bytes)
        samples = sum(kind.samples * len(kind.names) for kind in fleet.classes)
        traffic = replace(traffic, forward=traffic.forward + samples * sum(more))
        pieces = tuple(_masked(piece, each) for piece, each in zip(pieces, more, strict=True))
    return replace(
        plan,
        pieces=pieces,
        rotation=training.rotation,
        micro_batch=training.micro_batch,
        staleness=training.staleness,
        training=training,
        groups=turned,
        fleet=fleet,
        joules=epoch_joules(priced, training, fleet, problem, division.counts, turned),
        traffic=traffic,
    )


def _masked(piece: PiecePlan, more: float) -> PiecePlan:
    """Return a piece that sends so many bytes more for each sample.

    Raises InfeasiblePlan if they are too many.
    """
    sent = piece.uplink_bytes + more
    for budget in piece.budgets:
        if budget.name == "uplink" and sent > budget.limit * (1 + 1e-9):
            raise InfeasiblePlan(
                f"masked, the sums of the best plan take uplink {sent:,.0f} B a sample on {piece.seat} "
                f"(limit {budget.limit:,.0f}); raise max_uplink, or plan with --sums plain"
            )
    budgets = tuple(replace(b, used=sent) if b.name == "uplink" else b for b in piece.budgets)
    return replace(piece, uplink_bytes=sent, budgets=budgets)


def _by_layer(priced: Costs, counts: Counts, layers: int) -> list[int]:
    owned = [0] * layers
    for count, members in zip(counts, priced.layers, strict=True):
        for layer in members:
            owned[layer] = count
    return owned


def _piece(priced: Costs, problem: Problem, division: Division, k: int, piece: PiecePlan) -> PiecePlan:
    counts, seat = division.counts[k], problem.seats[division.seats[k]]
    sent = uplink(problem, division.counts, k)
    budgets = [BudgetUse(b.name, b.unit, b.use(counts), b.limit) for b in seat.budgets]
    uses = [
        max((u for u in budgets if u.name == n), key=lambda u: u.share)
        for n in dict.fromkeys(u.name for u in budgets)
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
    """Return the paper's accounting: floats sent forward per sample, `slices` followers of equal load, an
    idle dominator.

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
