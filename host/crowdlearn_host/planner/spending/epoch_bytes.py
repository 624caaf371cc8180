"""Bytes that devices send in an epoch of a plan, by purpose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from crowdlearn_host.planner.plan import EpochBytes, GroupPlan, Turn
from crowdlearn_host.planner.problem.costs import Costs, Training, sharing_bytes
from crowdlearn_host.planner.problem.epoch import sharings, snapshot_heirs, snapshots
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.problem import Counts, Problem, traffic


def epoch_traffic(
    priced: Costs,
    training: Training,
    fleet: Fleet,
    problem: Problem,
    counts: Sequence[Counts],
    groups: Sequence[GroupPlan],
) -> EpochBytes:
    """Return bytes of an epoch of the pieces with these counts, held by these groups turn by turn."""
    forward, backward = traffic(problem, counts)
    around = priced.overhead
    stored = snapshots(training, fleet, len(groups), len(counts))
    within = sum(s for piece in counts for s, n in zip(around.stored, piece, strict=True) if n)
    shared = (
        sharing_bytes(priced.shared_weights, training, len(groups))
        + len(counts) * sharings(len(groups)) * around.update
    )
    state = [moved_bytes(priced, piece) for piece in counts]
    steps = [
        [_moved(state, before, after) for before, after in pairwise((*each.turns, each.turns[0]))]
        for each in groups
    ]
    return EpochBytes(
        forward,
        backward,
        sum(map(sum, steps)),
        shared,
        stored * (priced.state + within + len(counts) * around.snapshot),
        around.heir * snapshot_heirs(training, fleet, len(groups), len(counts)),
        sum(way[-1] for way in steps),
        shared / 2 if len(groups) > 1 else 0.0,
    )


def moved_bytes(costs: Costs, counts: Counts) -> float:
    """Return bytes of a piece that moves to another device."""
    around = sum(extra for extra, count in zip(costs.overhead.moved, counts, strict=True) if count)
    return around + sum(n * each.state for n, each in zip(counts, costs.each, strict=True))


def _moved(state: Sequence[float], before: Turn, after: Turn) -> float:
    held = zip(before.devices, after.devices, state, strict=True)
    return sum(size for old, new, size in held if old != new)
