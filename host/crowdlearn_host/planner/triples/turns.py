"""Turns of a group on shares: triples of helpers beside every dominator, that move least.

Two helpers of a triple together read what enters its maps, so no two devices of one owner may meet in one.
A third of a triple's maps stays with its helper until that device is dominator itself. Then a stand-in keeps
it. So a helper that is dominator in its turn costs two moves an epoch, and one without samples none. Less is
not possible: each dominator hands its third on, and what has moved in a cycle moves once more at least.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from crowdlearn_host.planner.plan import Turn
from crowdlearn_host.planner.problem.seating import led


def turns_of(
    dominators: Sequence[str],
    homes: Sequence[str],
    takers: Sequence[Collection[str]],
    owner: Mapping[str, str],
) -> tuple[Turn, ...] | None:
    """Return a turn for each of the `dominators`; None if one has no triples of different owners beside it.

    `homes` are the helpers that stay but for their own turns, triple after triple. `takers` are the devices
    that can afford each piece, the dominator's first.
    """
    names = [*owner]
    number = {name: k for k, name in enumerate(names)}
    able = [{number[name] for name in each} for each in takers]
    here = [number[name] for name in dict.fromkeys(name for each in takers for name in each)]
    here.sort(key=lambda k: names[k] in homes)
    owners = {k: owner[name] for k, name in enumerate(names)}
    turns = []
    for dominator in dominators:
        wanted = [-1, *(-1 if name == dominator else number[name] for name in homes)]
        found = led(able, wanted, here, number[dominator], owners)
        if found is None:
            return None
        turns.append(Turn(tuple(names[k] for k in found)))
    return tuple(turns)
