"""Branch and price: the bound of the pattern relaxation, raised until it meets the best division or time is up."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations, count
from math import ceil, floor
from typing import TypeVar

from .patterns import Block, Branch, Relaxed, generate
from .problem import Problem

INTEGRAL = 1e-4
Key = TypeVar("Key")


def branch_and_price(
    problem: Problem,
    blocks: list[Block],
    deadline: float,
    target: Callable[[list[Block]], float],
) -> float:
    """A lower bound on every division; `blocks` grows by what the relaxations wanted.

    The branch with the least bound is split first. `target` is asked after every branch for the bound that is enough,
    and may look for divisions among the blocks meanwhile.
    """
    enough = target(blocks)
    root = generate(problem, blocks, Branch(), enough, deadline)
    order = count()
    waiting = [(root.bound, next(order), Branch(), root)]
    closed = []
    while waiting:
        enough = target(blocks)
        if waiting[0][0] >= enough or time.monotonic() > deadline:
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
    """Two branches that cut off the relaxation between them, at the most fractional number; none if all are whole."""
    pieces = {block: m for block, m in relaxed.pieces.items() if m > INTEGRAL / 10}
    most = sum(seat.count for seat in problem.seats)
    present = {b: sum(m for block, m in pieces.items() if b in block.pattern) for b in problem.free}
    key = _fractional(present)
    if key is not None:
        low, high = branch.present.get(key, (0, most))
        below, above = _halves(present[key], low, high)
        return [replace(branch, present={**branch.present, key: bounds}) for bounds in (below, above)]
    seated = {
        c: sum(m for block, m in pieces.items() if block.seat == c) for c in range(1, len(problem.seats))
    }
    kind = _fractional(seated)
    if kind is not None:
        low, high = branch.seated.get(kind, (0, problem.seats[kind].count))
        below, above = _halves(seated[kind], low, high)
        return [replace(branch, seated={**branch.seated, kind: bounds}) for bounds in (below, above)]
    both = {
        pair: sum(m for block, m in pieces.items() if {*pair} <= {*block.pattern})
        for pair in combinations(problem.free, 2)
    }
    pair = _fractional(both)
    if pair is not None:
        low, high = branch.both.get(pair, (0, most))
        below, above = _halves(both[pair], low, high)
        return [replace(branch, both={**branch.both, pair: bounds}) for bounds in (below, above)]
    return []


def _fractional(values: dict[Key, float]) -> Key | None:
    """The key whose value is farthest from whole, smaller values first."""
    best = max(values, key=lambda key: min(values[key] % 1, -values[key] % 1), default=None)
    if best is None or min(values[best] % 1, -values[best] % 1) < INTEGRAL:
        return None
    return best


def _halves(value: float, low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (low, floor(value)), (ceil(value), high)
