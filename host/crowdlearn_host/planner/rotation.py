"""Rotation: who holds which piece at each turn of an epoch, moving as much as the rotation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.problem.costs import Costs, Rotation
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.planner.problem.problem import Counts, Problem, uplink
from crowdlearn_host.planner.problem.seats import budgets, caps_of

from .plan import GroupPlan, Turn

FORBIDDEN = 1e30


def rotate(
    problem: Problem,
    costs: Costs,
    fleet: Fleet,
    devices: Sequence[str],
    counts: Sequence[Counts],
    rotation: Rotation,
) -> tuple[GroupPlan, float]:
    """The turns of one group and the bytes of state that move in an epoch, the way back to its first turn
    included.

    At each turn the assignment is the one that moves least (`minimal`) or keeps fewest pieces in place
    (`full`) among those in which every device can afford its piece. Raises InfeasiblePlan where there is
    none.
    """
    kind_of = {name: kind for kind in fleet.classes for name in kind.names}
    state = [sum(n * each.state for n, each in zip(count, costs.each, strict=True)) for count in counts]
    fits = {
        kind.name: [_fits(problem, costs, kind, counts, piece) for piece in range(len(counts))]
        for kind in fleet.classes
    }
    dominators = [name for name in devices if kind_of[name].samples]
    holders: tuple[str, ...] = ()
    # Twice round: the first epoch only finds the assignment that the second starts from.
    for _ in range(2):
        turns = []
        for t, dominator in enumerate(dominators):
            others = [name for name in devices if name != dominator]
            wait = {name: (k - t) % len(dominators) for k, name in enumerate(dominators)}
            able = [fits[kind_of[name].name] for name in others]
            follow = _assign(others, able, wait, holders, state, rotation)
            if follow is None or not fits[kind_of[dominator].name][0]:
                raise InfeasiblePlan(
                    f"while {dominator} is the dominator its group cannot afford the other pieces; "
                    "add a device of its class"
                )
            holders = (dominator, *follow)
            turns.append(Turn(holders))
    moved = sum(
        size
        for before, after in zip([*turns[-1:], *turns[:-1]], turns, strict=True)
        for old, new, size in zip(before.devices, after.devices, state, strict=True)
        if old != new
    )
    return GroupPlan(tuple(devices), tuple(turns)), moved


def _fits(problem: Problem, costs: Costs, kind: DeviceClass, counts: Sequence[Counts], piece: int) -> bool:
    caps = caps_of(kind, costs.sample_bytes)
    within = all(budget.use(counts[piece]) <= budget.limit * (1 + 1e-9) for budget in budgets(costs, caps))
    return within and uplink(problem, counts, piece) <= caps.uplink * (1 + 1e-9)


def _assign(
    others: Sequence[str],
    fits: Sequence[Sequence[bool]],
    wait: Mapping[str, int],
    holders: Sequence[str],
    state: Sequence[float],
    rotation: Rotation,
) -> list[str] | None:
    """A device for every follower's piece; what moves goes to whoever has longest to `wait` for its own
    turn.
    """
    pieces = len(state) - 1
    if pieces > len(others):
        return None
    price = np.zeros((pieces, len(others)))
    for piece in range(1, pieces + 1):
        for d, name in enumerate(others):
            stays = bool(holders) and holders[piece] == name
            patience = wait.get(name, len(wait)) / (1 + len(wait))
            moving = state[piece] * (2 - patience) if rotation == "minimal" else 0.0
            keeping = 0.0 if rotation == "minimal" else 1.0
            price[piece - 1, d] = (keeping if stays else moving) if fits[d][piece] else FORBIDDEN
    rows, columns = linear_sum_assignment(price)
    if pieces and price[rows, columns].max() >= FORBIDDEN:
        return None
    return [others[d] for d in columns]
