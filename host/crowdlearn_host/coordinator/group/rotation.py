"""Who holds what in the next pass."""

from __future__ import annotations

from collections.abc import Container, Set

from .restore_points import Schedule
from .settings import Settings


def next_holders(
    settings: Settings,
    schedule: Schedule,
    holders: tuple[int, ...],
    count: int,
    able: Set[int],
    slow: Container[int],
) -> tuple[int, ...]:
    """The holders of `count` pieces, of devices that are `able`.

    Piece 0 is the dominator's; slow devices come last. In a minimal rotation the others keep what they hold.
    """
    dominator = schedule.dominator
    for turn in settings.turns:
        if turn[0] == dominator and len(turn) == count and able >= set(turn):
            return turn
    if settings.rotation == "full" or len(holders) != count:
        ring = [d for d in schedule.order if d in able]
        ring += sorted(able - set(ring))
        first = ring.index(dominator) if dominator in ring else 0
        ring = ring[first:] + ring[:first]
        ring[1:] = sorted(ring[1:], key=lambda d: d in slow)
        return tuple(ring[:count])
    kept = list(holders)
    if dominator in kept:
        kept[kept.index(dominator)] = kept[0]
    kept[0] = dominator
    spares = [d for d in sorted(able) if d not in kept]
    return tuple(d if d in able else spares.pop(0) for d in kept)
