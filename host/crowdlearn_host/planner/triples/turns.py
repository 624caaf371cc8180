"""Turns of a group on shares: three helpers beside every dominator, of three owners, that move least.

Two helpers of a triple together read everything, so no two devices of one owner may meet in one. A third of
the maps stays with its helper until that device is dominator itself; then a stand-in keeps it for a turn. So
a helper that is dominator in its turn costs two moves an epoch, and one without samples none. Less is not
possible: each dominator hands its third on, and what has moved in a cycle moves once more at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crowdlearn_host.planner.plan import Turn
from crowdlearn_host.planner.shares import HELPERS


def turns_of(
    dominators: Sequence[str], able: Sequence[str], owner: Mapping[str, str]
) -> tuple[Turn, ...] | None:
    """Return a turn for each of the `dominators`, with helpers of those `able`; None if one has no triple.

    The first helpers are those that stay. If every dominator has a triple at all, three helpers that stay but
    for their own turns do: of four owners one is free to stand in, and of three each has another device.
    """
    feeds = set(dominators)
    chosen: dict[str, str] = {}
    for device in sorted(able, key=lambda device: device in feeds):  # those without samples first
        chosen.setdefault(owner[device], device)
    staying = list(chosen.values())[:HELPERS]
    if len(staying) < HELPERS:
        return None
    turns = []
    for dominator in dominators:
        helpers = list(staying)
        if dominator in staying:
            kept = {owner[device] for device in staying if device != dominator}
            others = (d for d in able if d not in staying and owner[d] not in kept)
            stand_in = next(others, None)
            if stand_in is None:
                return None
            helpers[staying.index(dominator)] = stand_in
        turns.append(Turn((dominator, *helpers)))
    return tuple(turns)
