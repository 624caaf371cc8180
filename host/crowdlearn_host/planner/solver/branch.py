"""Branch and price: the bound of the pattern relaxation, raised until it meets the best division or time is
up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, count
from math import ceil, floor
from typing import Any, Literal, NamedTuple, TypeVar

from crowdlearn_host.planner.problem.problem import Problem

from .class_program import INTEGRAL, Block, Branch, Master
from .clock import Deadline
from .pricing import Relaxed, generate

Key = TypeVar("Key")
TRIED = 3
"""The numbers of a kind by which a branch is split for trial."""
LONGEST_RUN = 8
"""The most neighbouring bundles whose presences are counted together."""


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
        parts = split(problem, blocks, branch, relaxed)
        if not parts:
            closed.append(bound)
        for part in parts:
            child = generate(problem, blocks, part, enough, deadline, relaxed.known)
            heapq.heappush(waiting, (max(child.bound, bound), next(order), part, child))
    return min([*closed, *(entry[0] for entry in waiting)])


def split(problem: Problem, blocks: Sequence[Block], branch: Branch, relaxed: Relaxed) -> list[Branch]:
    """Return two branches that cut off the relaxation between them; none if all numbers are whole. Of the
    numbers that promise most, the one is taken whose worse half is bounded best among the blocks there are.
    """
    weights = _weights(problem)
    tried = [*_by_runs(problem, branch, relaxed, weights), *_by_pairs(problem, branch, relaxed, weights)]
    if not tried:
        return _by_seats(problem, branch, relaxed)
    best = tried[0] if len(tried) < 2 else _best(problem, blocks, branch, relaxed, tried)
    return [
        replace(branch, **{best.kind: {**getattr(branch, best.kind), best.key: bounds}})
        for bounds in best.halves
    ]


def _best(
    problem: Problem, blocks: Sequence[Block], branch: Branch, relaxed: Relaxed, tried: Sequence[_Split]
) -> _Split:
    """Return the split whose worse half has the higher bound, and then the better one."""
    master = Master(problem, blocks, branch, penalised=True)
    basis = master.relax(relaxed.known).basis
    if basis is None:
        return tried[0]
    rows = []
    for each in tried:
        counted = master.presence_of(each.key) if each.kind == "present" else master.both_of(each.key)
        rows += [(low, counted, high) for low, high in each.halves]
    bounds = master.program.bounds(basis, rows)
    worse = [sorted(bounds[2 * k : 2 * k + 2]) for k in range(len(tried))]
    return tried[max(range(len(tried)), key=lambda k: worse[k])]


class _Split(NamedTuple):
    """Two bounds of a whole number: of the presences in a run of bundles, or of the pieces in both of two."""

    kind: Literal["present", "both"]
    key: Any
    halves: tuple[tuple[int, int], tuple[int, int]]


def _by_runs(
    problem: Problem, branch: Branch, relaxed: Relaxed, weights: Mapping[int, float]
) -> list[_Split]:
    present = dict.fromkeys(problem.free, 0.0)
    for block, pieces in relaxed.pieces.items():
        for b in block.pattern:
            present[b] += pieces
    runs = {run: sum(present[b] for b in run) for run in _runs(problem.free)}
    most = sum(seat.count for seat in problem.seats)
    halves = []
    for run in _fractional(runs, {run: min(weights[b] for b in run) for run in runs}, branch.present):
        parts = _halves(runs[run], *branch.present.get(run, (0, most * len(run))))
        halves.append(_Split("present", run, parts))
    return halves


def _by_pairs(
    problem: Problem, branch: Branch, relaxed: Relaxed, weights: Mapping[int, float]
) -> list[_Split]:
    both = dict.fromkeys(combinations(problem.free, 2), 0.0)
    for block, pieces in relaxed.pieces.items():
        for pair in combinations(block.pattern, 2):
            both[pair] += pieces
    most = sum(seat.count for seat in problem.seats)
    halves = []
    for pair in _fractional(both, {pair: weights[pair[0]] for pair in both}, branch.both):
        parts = _halves(both[pair], *branch.both.get(pair, (0, most)))
        halves.append(_Split("both", pair, parts))
    return halves


def _by_seats(problem: Problem, branch: Branch, relaxed: Relaxed) -> list[Branch]:
    seated = dict.fromkeys(range(1, len(problem.seats)), 0.0)
    for block, pieces in relaxed.pieces.items():
        if block.seat:
            seated[block.seat] += pieces
    for kind in _fractional(seated, dict.fromkeys(seated, 1.0), branch.seated):
        parts = _halves(seated[kind], *branch.seated.get(kind, (0, problem.seats[kind].count)))
        return [replace(branch, seated={**branch.seated, kind: bounds}) for bounds in parts]
    return []


def _weights(problem: Problem) -> dict[int, float]:
    """Return what a presence in each bundle sends at most."""
    weights = dict.fromkeys(problem.free, 0.0)
    for link in problem.links:
        if link.source in weights:
            weights[link.source] += link.exchanged * problem.neurons[link.target]
    return weights


def _runs(bundles: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield the runs of neighbouring bundles, longer ones first."""
    for size in range(min(len(bundles), LONGEST_RUN), 0, -1):
        for start in range(len(bundles) - size + 1):
            yield tuple(bundles[start : start + size])


def _fractional(
    values: Mapping[Key, float], weights: Mapping[Key, float], bounds: Mapping[Key, tuple[int, int]]
) -> list[Key]:
    """Return the keys whose values are farthest from whole, by weight, TRIED at most; none that only slack
    brings within its bounds.
    """
    distance = {key: min(value % 1, -value % 1) for key, value in values.items()}
    open_keys = [
        key for key, value in values.items() if distance[key] > INTEGRAL and bounds.get(key, (0,))[0] <= value
    ]
    return sorted(open_keys, key=lambda key: -distance[key] * weights[key])[:TRIED]


def _halves(value: float, low: int, high: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (low, floor(value)), (ceil(value), high)
