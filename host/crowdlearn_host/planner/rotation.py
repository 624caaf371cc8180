"""Rotation: who holds which piece at each turn of an epoch, moving as much as the rotation says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.problem.costs import Costs
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.places import Place, Tree, composition, joined, places
from crowdlearn_host.planner.problem.problem import Counts, Problem
from crowdlearn_host.planner.problem.rotations import Rotation

from .afford import affording
from .plan import GroupPlan, Turn
from .spending.epoch_bytes import moved_bytes

FORBIDDEN = 1e30


def rotate(
    problem: Problem,
    costs: Costs,
    fleet: Fleet,
    devices: Sequence[str],
    counts: Sequence[Counts],
    rotation: Rotation,
    tree: Tree = (),
) -> GroupPlan:
    """Return the turns of one group.

    In a `minimal` rotation turns follow the tree of places.py, which joins the dominators' classes; in a
    `full` one each turn keeps fewest pieces in place. Raises InfeasiblePlan if devices cannot afford the
    pieces.
    """
    afforded = affording(problem, costs, fleet, counts)
    if rotation == "full":
        turns = _full(fleet, devices, afforded)
    else:
        turns = _minimal(costs, fleet, devices, counts, afforded, tree)
    return GroupPlan(tuple(devices), tuple(turns))


def _minimal(
    costs: Costs,
    fleet: Fleet,
    devices: Sequence[str],
    counts: Sequence[Counts],
    afforded: Mapping[str, Sequence[bool]],
    tree: Tree,
) -> list[Turn]:
    """Return pieces on the group's places; the turns go round the tree that joins the dominators."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    group = composition(fleet, devices)
    chosen = _placed(costs, places(fleet, group, tree, costs.sample_bytes), counts, afforded)
    of_class = {name: [d for d in devices if kinds[d].name == name] for name, _ in group.classes}
    static, edges = _materialised(fleet, of_class, joined(fleet, group, tree, costs.sample_bytes), chosen)
    beside: dict[str, list[tuple[str, int]]] = {d: [] for d in devices if kinds[d].samples}
    for first, second, piece in edges:
        beside[first].append((second, piece))
        beside[second].append((first, piece))
    order = _walk(beside, next(iter(beside)))
    return [Turn(_holders(len(counts), dominator, beside, static)) for dominator in order]


def _placed(
    costs: Costs,
    group_places: Sequence[Place],
    counts: Sequence[Counts],
    afforded: Mapping[str, Sequence[bool]],
) -> list[tuple[Place, int]]:
    """Return every follower's piece with its place, so that least moves."""
    pieces = range(1, len(counts))
    if len(pieces) > len(group_places):
        raise InfeasiblePlan(f"a group has {len(group_places) + 1} devices for {len(counts)} pieces")
    price = np.full((len(pieces), len(group_places)), FORBIDDEN)
    for row, piece in enumerate(pieces):
        moved = 2 * moved_bytes(costs, counts[piece])
        for column, place in enumerate(group_places):
            if all(afforded[kind][piece] for kind in place.kinds):
                price[row, column] = moved * place.moves
    rows, columns = linear_sum_assignment(price)
    if len(rows) and price[rows, columns].max() >= FORBIDDEN:
        raise InfeasiblePlan(
            "while a device is the dominator its group cannot afford the other pieces; "
            "add a device of its class"
        )
    return [(group_places[column], 1 + row) for row, column in zip(rows, columns, strict=True)]


def _materialised(
    fleet: Fleet, of_class: Mapping[str, Sequence[str]], tree: Tree, chosen: Sequence[tuple[Place, int]]
) -> tuple[dict[int, str], list[tuple[str, str, int]]]:
    """Return who holds the pieces that stay, and the edges of the tree of dominators, each with its piece (0:
    none). Devices of a class are a chain, and the first of each joins the classes.
    """
    static: dict[int, str] = {}
    moving: dict[tuple[str, ...], list[int]] = {}
    for place, piece in chosen:
        moving.setdefault(place.kinds, []).append(piece)
    edges = []
    for kind in fleet.classes:
        devices = of_class.get(kind.name, ())
        waiting = moving.get((kind.name,), [])
        if not kind.samples:
            static |= dict(zip(waiting, devices, strict=False))
            continue
        for k, (first, second) in enumerate(pairwise(devices)):
            edges.append((first, second, waiting[k] if k < len(waiting) else 0))
    for ends in tree:
        first, second = (of_class[name][0] for name in ends)
        edges.append((first, second, moving[ends].pop() if moving.get(ends) else 0))
    return static, edges


def _walk(beside: Mapping[str, Sequence[tuple[str, int]]], root: str) -> list[str]:
    """Return the devices in the order in which a walk around the tree meets them: each edge is crossed
    twice.
    """
    order, waiting = [], [(root, "")]
    while waiting:
        device, before = waiting.pop()
        order.append(device)
        waiting += [(other, device) for other, _ in reversed(beside[device]) if other != before]
    return order


def _holders(
    pieces: int, dominator: str, beside: Mapping[str, Sequence[tuple[str, int]]], static: Mapping[int, str]
) -> tuple[str, ...]:
    """Return who holds each piece under a dominator: of every edge the end that is farther from it."""
    holders = {0: dominator, **static}
    waiting = [(dominator, "")]
    while waiting:
        device, before = waiting.pop()
        for other, piece in beside[device]:
            if other != before:
                waiting.append((other, device))
                if piece:
                    holders[piece] = other
    return tuple(holders[piece] for piece in range(pieces))


def _full(fleet: Fleet, devices: Sequence[str], afforded: Mapping[str, Sequence[bool]]) -> list[Turn]:
    kind_of = {name: kind for kind in fleet.classes for name in kind.names}
    pieces = len(next(iter(afforded.values()))) - 1
    holders: tuple[str, ...] = ()
    # Twice round: the first epoch only finds the assignment that the second starts from.
    for _ in range(2):
        turns = []
        for dominator in [name for name in devices if kind_of[name].samples]:
            others = [name for name in devices if name != dominator]
            fits = [afforded[kind_of[name].name] for name in others]
            follow = _others(others, fits, holders, pieces)
            if follow is None or not afforded[kind_of[dominator].name][0]:
                raise InfeasiblePlan(
                    f"while {dominator} is the dominator its group cannot afford the other pieces; "
                    "add a device of its class"
                )
            holders = (dominator, *follow)
            turns.append(Turn(holders))
    return turns


def _others(
    others: Sequence[str], fits: Sequence[Sequence[bool]], holders: Sequence[str], pieces: int
) -> list[str] | None:
    """Return a device for every follower's piece, so that fewest stay where they are; None if there is
    none.
    """
    if pieces > len(others):
        return None
    price = np.zeros((pieces, len(others)))
    for piece in range(1, pieces + 1):
        for d, name in enumerate(others):
            stays = bool(holders) and holders[piece] == name
            price[piece - 1, d] = float(stays) if fits[d][piece] else FORBIDDEN
    rows, columns = linear_sum_assignment(price)
    if pieces and price[rows, columns].max() >= FORBIDDEN:
        return None
    return [others[d] for d in columns]
