"""Branch and price: the bound of the pattern relaxation, raised until it meets the best division or time is
up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations, count
from math import ceil, floor
from typing import TypeVar

from crowdlearn_host.planner.problem.problem import Problem

from .class_program import INTEGRAL, Block, Branch
from .clock import Deadline
from .pricing import Relaxed, generate

Key = TypeVar("Key")


def branch_and_price(
    problem: Problem,
    blocks: list[Block],
    deadline: Deadline,
    target: Callable[[list[Block], Branch], float],
) -> float:
    """Return a lower bound on every division; `blocks` grows by what the relaxations need.

    The branch with the least bound is split first. `target` is asked after every branch for the bound that
    is enough, and may look for divisions among the blocks meanwhile.
    """
    enough = target(blocks, Branch())
    root = generate(problem, blocks, Branch(), enough, deadline)
    order = count()
    waiting = [(root.bound, next(order), Branch(), root)]
    closed = []
    while waiting:
        enough = target(blocks, waiting[0][2])
        if waiting[0][0] >= enough or deadline.left <= 0:
            break
        bound, _, branch, relaxed = heapq.heappop(waiting)
        parts = split(problem, branch, relaxed)
        if not parts:
            closed.append(bound)
        for part in parts:
            child = generate(problem, blocks, part, enough, deadline)
            heapq.heappush(waiting, (max(child.bound, bound), next(order), part, child))
    return min([*closed, *(entry[0] for entry in waiting)])


def split(problem: Problem, branch: Branch, relaxed: Relaxed) -> list[Branch]:
    """Return two branches that cut off the relaxation between them, at the number that matters most; none if
    all are whole.
    """
    pieces = {block: m for block, m in relaxed.pieces.items() if m > INTEGRAL / 10}
    most = sum(seat.count for seat in problem.seats)
    weights = dict.fromkeys(problem.free, 0.0)
    for link in problem.links:
        if link.source in weights:
            weights[link.source] += link.exchanged * problem.neurons[link.target]
    present = {b: sum(m for block, m in pieces.items() if b in block.pattern) for b in problem.free}
    bundle = _fractional(present, weights, branch.present)
    if bundle is not None:
        low, high = branch.present.get(bundle, (0, most))
        below, above = _halves(present[bundle], low, high)
        return [replace(branch, present={**branch.present, bundle: bounds}) for bounds in (below, above)]
    both = {
        pair: sum(m for block, m in pieces.items() if {*pair} <= {*block.pattern})
        for pair in combinations(problem.free, 2)
    }
    pair = _fractional(both, {pair: weights[pair[0]] for pair in both}, branch.both)
    if pair is not None:
        low, high = branch.both.get(pair, (0, most))
        below, above = _halves(both[pair], low, high)
        return [replace(branch, both={**branch.both, pair: bounds}) for bounds in (below, above)]
    seated = {
        c: sum(m for block, m in pieces.items() if block.seat == c) for c in range(1, len(problem.seats))
    }
    kind = _fractional(seated, dict.fromkeys(seated, 1.0), branch.seated)
    if kind is not None:
        low, high = branch.seated.get(kind, (0, problem.seats[kind].count))
        below, above = _halves(seated[kind], low, high)
        return [replace(branch, seated={**branch.seated, kind: bounds}) for bounds in (below, above)]
    return []


def _fractional(
    values: Mapping[Key, float], weights: Mapping[Key, float], bounds: Mapping[Key, tuple[int, int]]
) -> Key | None:
    """Return the key whose value is farthest from whole, by weight; not one that only slack brings within its
    bounds.
    """
    distance = {key: min(value % 1, -value % 1) for key, value in values.items()}
    open_keys = [
        key for key, value in values.items() if distance[key] > INTEGRAL and bounds.get(key, (0,))[0] <= value
    ]
    return max(open_keys, key=lambda key: distance[key] * weights[key], default=None)


def _halves(value: float, low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (low, floor(value)), (ceil(value), high)
