"""When no plan fits: the smallest relaxations that would make one fit.

Budgets get elastic limits in the piece-by-piece program without its traffic; what they stretch by, as a
share of the limit and in sum, is minimised. Stretching is per class of seats, for that is what a user can
change. A cap on what followers learn is not stretched with them: the least limit that would do is found among
those that were measured.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.leaks import Leaks
from crowdlearn_host.planner.problem.places import caps_of
from crowdlearn_host.planner.problem.problem import Budget, Problem, uplink
from crowdlearn_host.planner.solver.clock import Deadline
from crowdlearn_host.planner.solver.milp import Program
from crowdlearn_host.planner.solver.piece_program import seat_classes
from crowdlearn_host.planner.solver.search import search

SECONDS = 10.0
"""The longest time of an explanation."""
MOST_WAYS = 4
"""Ways out that are told."""


@dataclass(frozen=True)
class Relaxation:
    """A budget of a class of seats, by its index, that must grow from `limit` to `needed`."""

    seat: int
    budget: str
    unit: str
    limit: float
    needed: float


@dataclass(frozen=True)
class Stretch:
    """Budgets that fit a plan when they grow together; `least`: less is proven not to do.

    Not one budget, and not `least`: nothing is known.
    """

    budgets: tuple[Relaxation, ...]
    least: bool


def relaxations(problem: Problem, seconds: float, only: tuple[int, str] | None = None) -> Stretch | None:
    """Return the least stretching of the linear budgets that is found in so many seconds, of all of them or
    of one (seat, budget) alone; None if none does.
    """
    program = Program()
    stretch: dict[tuple[int, str], int] = {}
    for c, seat in enumerate(problem.seats):
        for budget in seat.budgets:
            key = c, budget.name
            if key not in stretch:
                grows = only in (None, key) and not budget.hard
                stretch[key] = program.column(1.0, 0, inf if grows else 0)
    covered: dict[int, dict[int, float]] = {b: {} for b in problem.free}
    for k, seat_class in enumerate(seat_classes(problem)):
        seat = problem.seats[seat_class]
        hidden = problem.free if k or problem.dominator_hidden else ()
        owned = {b: program.column(0, 0, problem.neurons[b], integer=True) for b in hidden}
        present = {b: program.column(0, 0, 1, integer=True) for b in hidden}
        used = program.column(0, 0 if k else 1, 1, integer=True)
        for b in hidden:
            program.row(-inf, {present[b]: 1, used: -1}, 0)
            program.row(-inf, {owned[b]: 1, present[b]: -problem.neurons[b]}, 0)
            covered[b][owned[b]] = 1.0
        whole = problem.pinned if k == 0 else ()
        for budget in seat.budgets:
            fixed = sum(budget.per_neuron[b] * problem.neurons[b] + budget.per_presence[b] for b in whole)
            row = {owned[b]: budget.per_neuron[b] for b in hidden}
            row |= {present[b]: budget.per_presence[b] for b in hidden}
            row |= {used: budget.fixed, stretch[seat_class, budget.name]: -budget.limit}
            program.row(-inf, row, budget.limit - fixed)
    for b, row in covered.items():
        program.row(problem.neurons[b], row, problem.neurons[b])
    answer = program.solve(seconds=seconds)
    if not answer.values:
        return None if answer.infeasible else Stretch((), False)
    of = {(c, budget.name): budget for c, seat in enumerate(problem.seats) for budget in seat.budgets}
    grown = tuple(
        _relaxation(key[0], of[key], answer.values[column])
        for key, column in stretch.items()
        if answer.values[column] > 1e-6
    )
    return Stretch(grown, answer.objective - answer.bound <= 1e-5 * max(answer.objective, 1.0))


def _relaxation(seat: int, budget: Budget, grown: float) -> Relaxation:
    return Relaxation(seat, budget.name, budget.unit, budget.limit, budget.limit * (1 + grown))


def explain(
    problem: Problem,
    fleet: Fleet,
    proven: bool,
    sample_bytes: float,
    seconds: float,
    leaks: Leaks | None = None,
) -> str:
    """Return one line: what no plan can meet, and the smallest changes that would help, found within
    `seconds` and SECONDS. With `leaks` followers' views are capped, too.

    Limits on memory are told without the device's own samples, of `sample_bytes` each.
    """
    verdict = "no plan meets every budget" if proven else "no plan that meets every budget was found in time"
    deadline = Deadline.after(min(seconds, SECONDS))
    joint = relaxations(problem, deadline.left)
    other = [] if leaks is None else _other_privacy(problem, leaks, deadline)
    if joint is None:
        if other:
            return f"{verdict}; it would take {', or '.join(other)}"
        return f"{verdict}: the group has too few seats; add devices"
    if not joint.budgets:
        if not joint.least:
            return f"{verdict}, nor what to relax; give it more seconds"
        return f"{verdict}: {_uplinks(problem, deadline.left)}"

    def in_words(stretch: Stretch) -> str:
        parts = " and ".join(_tell(problem, fleet, one, sample_bytes) for one in stretch.budgets)
        return parts if stretch.least else f"{parts} or less"

    parts = [in_words(joint)]
    keys = [(c, budget.name) for c, s in enumerate(problem.seats) for budget in s.budgets if not budget.hard]
    for key in dict.fromkeys(keys):
        left = deadline.left
        if len(parts) == MOST_WAYS or left <= 0:
            break
        if [(one.seat, one.budget) for one in joint.budgets] == [key]:
            continue
        alone = relaxations(problem, left, key)
        if alone is not None and alone.budgets:
            parts.append(in_words(alone))
    return f"{verdict}; it would take " + ", or ".join([*parts, *other])


def _other_privacy(problem: Problem, leaks: Leaks, deadline: Deadline) -> list[str]:
    """Return what would do in place of other budgets: the least max_leak, or max_label_leak, or both, and
    slices on shares.
    """
    least, least_label = least_leak(problem, leaks, deadline), least_label_leak(problem, leaks, deadline)
    advice = [] if least is None else [_capped("max_leak", least, leaks.limit)]
    if least_label is not None:
        advice.append(_capped("max_label_leak", least_label, leaks.label_limit))
    if not advice and leaks.levels and leaks.label_levels:
        open_ = replace(leaks, limit=leaks.levels[-1])
        label = least_label_leak(problem, open_, deadline)
        both = None if label is None else least_leak(problem, replace(leaks, label_limit=label), deadline)
        if label is not None and both is not None:
            first = _capped("max_leak", both, leaks.limit)
            advice.append(f"{first} and {_capped('max_label_leak', label, leaks.label_limit)}")
    return [*advice, "sums = 'shares', of which one helper re-identifies none and reads no labels"]


def _capped(name: str, needed: float, limit: float) -> str:
    return f"{name} {needed:.3g} (limit {limit:.3g})"


def least_leak(problem: Problem, leaks: Leaks, deadline: Deadline) -> float | None:
    """Return the least limit on what followers learn, of those measured, with which a division meets all
    linear budgets; None if no limit does, or the time does not suffice.
    """
    return _least(problem, leaks.levels, lambda limit: replace(leaks, limit=limit), deadline)


def least_label_leak(problem: Problem, leaks: Leaks, deadline: Deadline) -> float | None:
    """Return the same of the limit on labels that followers read."""
    return _least(problem, leaks.label_levels, lambda limit: replace(leaks, label_limit=limit), deadline)


def _least(
    problem: Problem, levels: Sequence[float], limited: Callable[[float], Leaks], deadline: Deadline
) -> float | None:
    def fits(limit: float) -> bool:
        leak = limited(limit).budget
        seats = tuple(
            replace(seat, budgets=tuple(leak if budget.hard else budget for budget in seat.budgets))
            for seat in problem.seats
        )
        stretch = relaxations(replace(problem, seats=seats), max(deadline.left, 0.1))
        return stretch is not None and stretch.least and not stretch.budgets

    if not levels or not fits(levels[-1]):
        return None
    return levels[bisect_left(levels, True, key=fits)]


def _tell(problem: Problem, fleet: Fleet, relaxation: Relaxation, sample_bytes: float) -> str:
    more = 100 * (relaxation.needed / relaxation.limit - 1)
    holders = problem.seats[relaxation.seat].name
    if relaxation.seat == 0:
        attribute = {"compute": "macs", "memory": "memory"}[relaxation.budget]
        short = [
            k.name
            for k in fleet.classes
            if k.samples and getattr(caps_of(k, sample_bytes), attribute) < relaxation.needed
        ]
        holders = f"{', '.join(short)} as dominator"
    return (
        f"{relaxation.budget} {relaxation.needed:,.0f} {relaxation.unit} on {holders} "
        f"(limit {relaxation.limit:,.0f}, {more:+.1f} %)"
    )


def _uplinks(problem: Problem, seconds: float) -> str:
    """Return what the best plan without limits on uplinks would send."""
    open_ended = replace(problem, seats=tuple(replace(seat, uplink=inf) for seat in problem.seats))
    division = search(open_ended, max(seconds, 0.2)).division
    if division is None:
        return "budgets are met one by one, but not together; add devices or raise them a little"
    needs: dict[str, float] = {}
    for k, seat in enumerate(division.seats):
        sent = uplink(problem, division.counts, k)
        if sent > problem.seats[seat].uplink:
            needs[problem.seats[seat].name] = max(needs.get(problem.seats[seat].name, 0.0), sent)
    lines = [f"uplink {sent:,.0f} B a sample on {name}" for name, sent in needs.items()]
    return "it would take " + " and ".join(lines)
