"""Who holds what in the next pass."""

from __future__ import annotations

from collections.abc import Container, Sequence, Set

from crowdlearn_device.protocol.schedule import dominator_order

from crowdlearn_host.planner.problem.seating import Owners, Takers, beyond, led, meeting

from .restore_points import Schedule
from .settings import Settings


def turn_order(settings: Settings, dominating: Sequence[int], epoch: int) -> tuple[int, ...]:
    """Return the order in which devices are dominator in an epoch: the plan's, of which its bytes are, or
    else drawn.
    """
    planned = [turn[0] for turn in settings.turns if turn[0] in dominating]
    if planned:
        return (*planned, *(device for device in dominating if device not in planned))
    return tuple(dominator_order(dominating, seed=settings.seed, epoch=epoch)) if dominating else ()


def next_holders(
    settings: Settings,
    schedule: Schedule,
    holders: tuple[int, ...],
    takers: Takers,
    count: int,
    able: Set[int],
    slow: Container[int],
    owners: Owners | None = None,
) -> tuple[int, ...] | None:
    """Return the holders of `count` pieces, of devices that are `able` and can afford theirs; None if there
    are none. No two of those of one owner are in a triple.

    Piece 0 is the dominator's; slow devices come last. In a minimal rotation the others keep what they hold.
    Sticky pieces have the same holders whenever a device is dominator, and planned turns repeat anyway.
    """
    dominator = schedule.dominator
    for turn in settings.turns:
        fits = len(turn) == count and able >= set(turn) and not beyond(takers, turn)
        if turn[0] == dominator and fits and not meeting(owners or {}, turn):
            return turn
    ring = [d for d in schedule.order if d in able]
    ring += sorted(able - set(ring))
    first = ring.index(dominator) if dominator in ring else 0
    ring = ring[first:] + ring[:first]
    ring[1:] = sorted(ring[1:], key=lambda d: d in slow)
    if settings.sticky:
        wanted = _at_home(sorted(able), dominator, count)
        return led(takers, wanted, sorted(able, key=lambda d: (d in slow, d)), dominator, owners)
    if settings.rotation == "full" or len(holders) != count:
        return led(takers, tuple(ring[:count]), ring, dominator, owners)
    kept = list(holders)
    if dominator in kept:
        kept[kept.index(dominator)] = kept[0]
    kept[0] = dominator
    spares = [d for d in sorted(able) if d not in kept]
    wanted = [d if d in able else -1 for d in kept]
    return led(takers, wanted, [*spares, *(d for d in ring if d not in spares)], dominator, owners)


def _at_home(devices: Sequence[int], dominator: int, count: int) -> list[int]:
    """Return holders such that every device but the first has a piece of its own, at any turn: the first one
    stands in for the dominator.
    """
    home = list(devices[:count])
    if dominator in home:
        home[home.index(dominator)] = home[0]
    return [dominator, *home[1:]]
