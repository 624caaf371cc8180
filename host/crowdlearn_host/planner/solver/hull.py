"""How many neurons one piece may own: rooms, and the convex hull of all its feasible counts."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from crowdlearn_host.planner.problem.problem import Problem

SAFETY = 1e-7
Inequality = tuple[tuple[float, ...], float]
"""Coefficients per bundle of a pattern, and the right-hand side: coefficients . counts <= right."""


def capacities(problem: Problem, seat: int, pattern: Sequence[int]) -> list[tuple[np.ndarray, float]]:
    """Return each budget of a seat as (cost per neuron, what is left for neurons), given presence in
    `pattern` alone.
    """
    present = [*pattern, *problem.pinned] if seat == 0 else list(pattern)
    rows = []
    for budget in problem.seats[seat].budgets:
        left = budget.limit - budget.fixed - sum(budget.per_presence[b] for b in present)
        if seat == 0:
            left -= sum(budget.per_neuron[b] * problem.neurons[b] for b in problem.pinned)
        rows.append((np.array([budget.per_neuron[b] for b in pattern]), left))
    return rows


def rooms(problem: Problem, seat: int, pattern: Sequence[int]) -> list[int] | None:
    """Return the most neurons of each bundle beside one of every other; None if one of each does not fit."""
    most = [problem.neurons[b] for b in pattern]
    for cost, left in capacities(problem, seat, pattern):
        if cost.sum() > left * (1 + SAFETY):
            return None
        for i, price in enumerate(cost):
            if price > 0:
                most[i] = min(most[i], 1 + floor((left - cost.sum()) / price + SAFETY))
    return most


def hull(
    problem: Problem, seat: int, pattern: Sequence[int], most: Sequence[int], max_points: int
) -> list[Inequality]:
    """Return facets of the integer points between 1 and `most` that meet every budget; none if the points are
    more than `max_points`, or the bundles more than three.

    With them the linear relaxation of one piece is exact. Each is loosened a little, so that rounding never
    cuts off a feasible point.
    """
    wide = [i for i, room in enumerate(most) if room > 1]
    budgets = capacities(problem, seat, pattern)
    if not 2 <= len(wide) <= 3 or not budgets or np.prod([most[i] for i in wide[:-1]]) > max_points:
        return []
    axes = np.meshgrid(*(np.arange(1, most[i] + 1) for i in wide[:-1]), indexing="ij")
    grid = np.stack([axis.ravel() for axis in axes], axis=1).astype(float)
    last = np.full(len(grid), float(most[wide[-1]]))
    for cost, left in budgets:
        rest = left - cost[[i for i in range(len(pattern)) if i not in wide]].sum() - grid @ cost[wide[:-1]]
        if cost[wide[-1]] > 0:
            last = np.minimum(last, np.floor(rest / cost[wide[-1]] + SAFETY))
        else:
            last = np.where(rest < -SAFETY, 0, last)
    grid, last = grid[last >= 1], last[last >= 1]
    points = np.unique(np.concatenate([np.c_[grid, last], np.c_[grid, np.ones_like(last)]]), axis=0)
    try:
        equations = ConvexHull(points).equations
    except (QhullError, ValueError):
        return []
    facets = []
    for *normal, _ in np.unique(np.round(equations, 10), axis=0):
        if max(normal) <= SAFETY:
            continue
        coefficients = [0.0] * len(pattern)
        for i, value in zip(wide, normal, strict=True):
            coefficients[i] = float(value)
        right = float((points @ np.array(normal)).max())
        facets.append((tuple(coefficients), right + SAFETY * max(1.0, abs(right))))
    return facets
