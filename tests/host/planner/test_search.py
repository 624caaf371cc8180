"""The planner's optimum is the optimum: against brute force on small random problems."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf

import pytest
from crowdlearn_host.planner.problem.problem import (
    Budget,
    BundleLink,
    Division,
    Problem,
    Seat,
    Wire,
    cost,
    violations,
)
from crowdlearn_host.planner.solver.branch import branch_and_price
from crowdlearn_host.planner.solver.class_program import FEW_POINTS, make_block
from crowdlearn_host.planner.solver.clock import Deadline
from crowdlearn_host.planner.solver.piece_program import seat_classes, solve_pieces
from crowdlearn_host.planner.solver.runs import division_of_runs
from crowdlearn_host.planner.solver.search import search
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 30.0


@st.composite
def problems(draw: st.DrawFn, uplinks: bool = False) -> Problem:
    """Input, one to three hidden bundles, output; links forward, beside and around, which errors may not take
    back; two or three classes of seats.
    """
    hidden = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    neurons = (draw(st.integers(1, 4)), *hidden, draw(st.integers(1, 3)))
    last = len(neurons) - 1
    links = []
    for b in range(last):
        floats, silent = draw(st.integers(1, 3)), draw(st.booleans())
        links.append(BundleLink(b, b + 1, floats, silent=silent * floats, silent_edges=int(silent)))
    extra = st.tuples(st.integers(0, last), st.integers(1, last)).filter(lambda ends: ends[0] <= ends[1])
    for source, target in draw(st.lists(extra, max_size=2)):
        if source < last:
            floats, edges = draw(st.integers(1, 3)), draw(st.integers(1, 2))
            silent = draw(st.integers(0, floats)), draw(st.integers(0, edges))
            links.append(BundleLink(source, target, floats, edges, *silent))
    counts = draw(st.sampled_from([(1,), (2,), (3,), (1, 1), (2, 1)]))
    costs = st.integers(0, 4)
    seats = []
    for c, count in enumerate((1, *counts)):
        budgets = []
        for name in draw(st.sampled_from([(), ("macs",), ("macs", "memory")])):
            per_neuron = tuple(draw(costs) for _ in neurons)
            per_presence = tuple(draw(costs) if name == "memory" else 0 for _ in neurons)
            pinned = sum(per_neuron[b] * neurons[b] + per_presence[b] for b in (0, last)) if c == 0 else 0
            budgets.append(
                Budget(name, "units", per_neuron, per_presence, 1, pinned + 1 + draw(st.integers(2, 20)))
            )
        limit = draw(st.integers(5, 60)) if uplinks and c else inf
        kept, entered = (
            tuple(draw(st.integers(0, 2)) if 0 < b < last else 0 for b in range(len(neurons))) for _ in "ke"
        )
        state = (kept, entered, draw(st.integers(0, 3))) if draw(st.booleans()) else ()
        seats.append(Seat(f"class {c}", count, tuple(budgets), limit, *state))
    return Problem(
        neurons,
        tuple(links),
        frozenset({0, last}),
        tuple(seats),
        objective=Wire(draw(st.integers(1, 3)), draw(st.sampled_from([0, 0.5, 2]))),
        sent=Wire(2, draw(st.sampled_from([0, 1]))),
        constant=7,
        dominator_hidden=draw(st.booleans()),
    )


@st.composite
def deep_problems(draw: st.DrawFn) -> Problem:
    """Ten hidden bundles on few followers: too many patterns to list, and blocks to begin with cannot cover
    them.
    """
    hidden = (*draw(st.lists(st.integers(1, 2), min_size=3, max_size=3)), *[1] * 7)
    neurons, loads = (1, *hidden, 2), (0, *(draw(st.integers(1, 3)) for _ in hidden), 0)
    total = sum(load * count for load, count in zip(loads, neurons, strict=True))
    counts = draw(st.sampled_from([(2,), (1, 1)]))
    seats = [Seat("dominator", 1)]
    for c, count in enumerate(counts):
        limit = int(total * draw(st.sampled_from([0.3, 0.45, 0.55, 0.7, 0.85])))
        budgets = [Budget("macs", "units", loads, (0,) * 12, 0, limit)]
        if draw(st.booleans()):
            budgets.append(Budget("memory", "units", (0,) * 12, (1,) * 12, 1, draw(st.integers(5, 9))))
        seats.append(Seat(f"class {c}", count, tuple(budgets)))
    links = tuple(BundleLink(b, b + 1, draw(st.integers(1, 3))) for b in range(11))
    return Problem(
        neurons,
        links,
        frozenset({0, 11}),
        tuple(seats),
        objective=Wire(draw(st.integers(1, 3)), draw(st.sampled_from([0, 2]))),
        constant=7,
        dominator_hidden=False,
    )


def shares(neurons: int, seats: int) -> list[tuple[int, ...]]:
    """Every way to hand `neurons` out to `seats` seats."""
    if seats == 0:
        return [()] if neurons == 0 else []
    return [(x, *rest) for x in range(neurons + 1) for rest in shares(neurons - x, seats - 1)]


def brute_force(problem: Problem) -> float:
    seats = seat_classes(problem)
    choices = []
    for b, neurons in enumerate(problem.neurons):
        if b in problem.pinned:
            choices.append([(neurons, *[0] * (len(seats) - 1))])
        elif problem.dominator_hidden:
            choices.append(shares(neurons, len(seats)))
        else:
            choices.append([(0, *share) for share in shares(neurons, len(seats) - 1)])
    best = inf
    for columns in product(*choices):
        division = Division(seats, tuple(zip(*columns, strict=True)))
        if not violations(problem, division):
            best = min(best, cost(problem, division))
    return best


quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@quick
@given(problems())
def test_the_optimum_is_that_of_brute_force(problem: Problem) -> None:
    solution, best = search(problem, SECONDS), brute_force(problem)
    assert solution.infeasible == (best == inf)
    if best < inf:
        assert solution.division is not None
        assert not violations(problem, solution.division)
        assert solution.cost == pytest.approx(best)
        assert solution.optimal


@settings(quick, max_examples=15)
@given(deep_problems())
def test_deep_networks_on_few_devices_have_their_optimum_and_a_bound_below_it(problem: Problem) -> None:
    solution, best = search(problem, SECONDS), brute_force(problem)
    assert solution.infeasible == (best == inf)
    assert solution.bound <= best + 1e-6
    assert solution.cost == pytest.approx(best)


@settings(quick, max_examples=5)
@given(deep_problems())
def test_branch_and_price_bounds_the_optimum_from_below_whatever_was_found(problem: Problem) -> None:
    """What `search` tells of it is never above the cost of what it has found, right or wrong."""
    free = replace(problem, constant=0.0)
    blocks = [make_block(free, 0, (), FEW_POINTS)]
    blocks += [
        make_block(free, seat, (b,), FEW_POINTS) for seat in (1, len(free.seats) - 1) for b in free.free
    ]
    known = [block for block in blocks if block is not None]
    deadline = Deadline.after(SECONDS)
    bound = branch_and_price(free, known, deadline, lambda blocks, branch: inf)
    best = brute_force(free)
    assert bound <= best * (1 + 1e-6)
    assert bound >= best * (1 - 1e-3)


@quick
@given(st.one_of(problems(), deep_problems()))
def test_a_division_into_runs_keeps_to_every_budget(problem: Problem) -> None:
    division = division_of_runs(problem)
    if division is not None:
        assert not violations(problem, division)
        assert cost(problem, division) >= brute_force(problem) * (1 - 1e-9)


def test_a_deep_network_is_divided_among_many_devices_at_once() -> None:
    """Two hundred bundles, whose patterns no program lists, on classes of which none affords a third."""
    hidden = (64,) * 200
    neurons, loads = (8, *hidden, 10), (0, *[1 + b % 7 for b in range(len(hidden))], 0)
    total = sum(load * count for load, count in zip(loads, neurons, strict=True))
    seats = [Seat("dominator", 1)]
    for share, count in ((0.3, 2), (0.1, 6), (0.03, 10)):
        seats.append(
            Seat(f"{share:g}", count, (Budget("macs", "MACs", loads, (0,) * 202, 0, share * total),))
        )
    links = tuple(BundleLink(b, b + 1, 1 + b % 3) for b in range(201))
    deep = Problem(neurons, links, frozenset({0, 201}), tuple(seats), dominator_hidden=False)
    division = division_of_runs(deep)
    assert division is not None
    assert not violations(deep, division)
    crossed = sum(bool(a) for piece in division.counts[1:] for a in piece) - len(hidden)
    assert crossed < len(division.seats), "a bundle is shared only where a piece ends"


@quick
@given(problems())
def test_an_idle_device_that_is_too_small_for_anything_changes_nothing(problem: Problem) -> None:
    each = (1,) * len(problem.neurons)
    tiny = Seat("tiny", 1, (Budget("memory", "units", each, each, 100, 50),))
    wider, best = replace(problem, seats=(*problem.seats, tiny)), brute_force(problem)
    division, bound = solve_pieces(wider, seat_classes(wider), seconds=SECONDS)
    assert (division is None) == (best == inf)
    assert problem.constant + bound <= best + 1e-6
    if division is not None:
        assert cost(wider, division) == pytest.approx(best)


@quick
@given(problems(uplinks=True))
def test_the_optimum_within_uplinks_is_that_of_brute_force(problem: Problem) -> None:
    solution, best = search(problem, SECONDS), brute_force(problem)
    assert (solution.division is None) == (best == inf)
    if best < inf:
        assert solution.cost == pytest.approx(best)
        assert solution.bound <= best + 1e-6


@quick
@given(problems())
def test_plans_are_deterministic(problem: Problem) -> None:
    first, second = search(problem, SECONDS), search(problem, SECONDS)
    assert (first.division, first.cost) == (second.division, second.cost)


@quick
@given(problems())
def test_a_tighter_budget_is_never_cheaper(problem: Problem) -> None:
    tighter = replace(
        problem,
        seats=tuple(
            replace(seat, budgets=tuple(replace(b, limit=b.limit - 1) for b in seat.budgets))
            for seat in problem.seats
        ),
    )
    assert search(tighter, SECONDS).cost >= search(problem, SECONDS).cost - 1e-6


@pytest.mark.parametrize(("pieces", "floats"), [(5, 1252), (10, 2159), (15, 3055), (20, 3976)])
def test_the_papers_network_has_the_proven_optimum(pieces: int, floats: int) -> None:
    neurons, loads = (784, 400, 200, 100, 10), (0, 201, 101, 11, 0)
    budget = Budget("load", "edges", loads, (0,) * 5, 0, 1.03 * 101_700 / pieces)
    problem = Problem(
        neurons,
        tuple(BundleLink(b, b + 1, 1) for b in range(4)),
        frozenset({0, 4}),
        (Seat("dominator", 1), Seat("follower", pieces, (budget,))),
        dominator_hidden=False,
    )
    solution = search(problem, SECONDS)
    assert (solution.cost, solution.optimal) == (floats, True)
