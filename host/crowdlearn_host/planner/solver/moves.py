"""A division made cheaper by handing neurons on, where what is sent is not the cost that was searched by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import inf

import numpy as np
from scipy.optimize import linear_sum_assignment

from crowdlearn_host.planner.problem.problem import Counts, Division, Problem, violations

from .clock import Deadline
from .piece_program import seat_classes

FORBIDDEN = 1e9
BETTER = 1 - 1e-9
FEW = 100
"""Moves that are tried in pairs as well."""


def improved(
    problem: Problem, division: Division, sent: Callable[[Division], float], deadline: Deadline
) -> Division:
    """Return the division, or a cheaper one that is reached by moves of which each sends less than before.

    A move hands all, half or one of a piece's neurons of a bundle to another piece or an empty seat; or it
    exchanges two pieces' neurons. `sent` is inf for what cannot be.
    """
    best, least = division, sent(division)
    searching = True
    while searching:
        searching = False
        for counts in chain(_neighbours(problem, best.counts), _second(problem, best.counts)):
            if deadline.left <= 0:
                return best
            tried = _seated(problem, counts)
            if tried is not None and (cost := sent(tried)) < least * BETTER:
                best, least, searching = tried, cost, True
                break
    return best


def _second(problem: Problem, counts: Sequence[Counts]) -> Iterator[tuple[Counts, ...]]:
    """Yield two moves at once, where there are few of them: a piece is dissolved only by several."""
    first = list(_neighbours(problem, counts))
    if len(first) <= FEW:
        seen = {tuple(counts), *first}
        for moved in first:
            for again in _neighbours(problem, moved):
                if again not in seen:
                    seen.add(again)
                    yield again


def _neighbours(problem: Problem, counts: Sequence[Counts]) -> Iterator[tuple[Counts, ...]]:
    room = len(seat_classes(problem)) - len(counts)
    rows = [list(piece) for piece in counts] + [[0] * len(problem.neurons)] * min(room, 1)
    for bundle in sorted(problem.free):
        for source, owned in enumerate(rows):
            for target in range(len(rows)):
                if source == target or not owned[bundle]:
                    continue
                amounts = {owned[bundle], owned[bundle] // 2, 1} - {0}
                if rows[target][bundle]:
                    amounts.add(owned[bundle] - rows[target][bundle])  # exchanged
                for amount in sorted((a for a in amounts if a > 0), reverse=True):
                    moved = [list(row) for row in rows]
                    moved[source][bundle] -= amount
                    moved[target][bundle] += amount
                    first, *others = moved
                    yield (tuple(first), *(tuple(other) for other in others if any(other)))


def _seated(problem: Problem, counts: Sequence[Counts]) -> Division | None:
    """Return the division with these counts on seats that afford them; None if there are none."""
    seats = seat_classes(problem)
    if len(counts) > len(seats):
        return None
    price = np.array([[_price(problem, seat, piece) for seat in seats[1:]] for piece in counts[1:]])
    chosen = [seats[0]]
    if len(counts) > 1:
        rows, columns = linear_sum_assignment(price)
        if price[rows, columns].max() >= FORBIDDEN:
            return None
        chosen += [seats[1 + column] for column in columns]
    division = Division(tuple(chosen), tuple(counts))
    return None if violations(problem, division) else division


def _price(problem: Problem, seat: int, counts: Counts) -> float:
    over = any(b.use(counts) > b.limit * (1 + 1e-9) for b in problem.seats[seat].budgets if b.limit < inf)
    return FORBIDDEN if over else 0.0
