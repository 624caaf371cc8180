"""The seats of a group: which budgets its pieces must meet under any dominator, and what moves there.

One division serves every turn of every group. The dominator's piece goes round, so it must fit every device
that holds samples. places.py tells where followers' pieces are; seats are the places that every group has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from operator import mul

from crowdlearn_host.errors import InfeasiblePlan

from .costs import Costs, Training, sharing_bytes
from .epoch import sharings
from .fleet import Fleet
from .memory import memory_budgets
from .places import Caps, Composition, Tree, compositions, meet, places
from .problem import Budget, Problem, Seat, Wire


def group_problem(costs: Costs, training: Training, fleet: Fleet, groups: int, tree: Tree = ()) -> Problem:
    """Divide the network for `groups` groups dealt evenly from the fleet, whose dominating classes `tree`
    joins; costs are per epoch of all of them. Raises InfeasiblePlan if a device's samples alone take its
    memory.
    """
    _check_samples(fleet, costs.sample_bytes)
    dominating = [kind for kind in fleet.classes if kind.samples]
    samples = sum(kind.samples * len(kind.names) for kind in dominating)
    passes = sum(training.micro_batches(kind.samples) * len(kind.names) for kind in dominating)
    shared = meet(dominating, costs.sample_bytes)
    made = compositions(fleet, groups)
    turns = sum(each.turns * times for each, times in made.items())
    is_full = training.rotation == "full"
    overhead = costs.overhead
    used = float(sharings(groups) * overhead.update)

    def seat(name: str, count: int, caps: Caps, moves: int, *, follows: bool = True) -> Seat:
        """Return a seat whose piece moves so often in an epoch, in all groups together."""
        moved = 0 if is_full else moves
        return Seat(
            name,
            count,
            budgets(costs, caps, follows=follows),
            caps.uplink,
            tuple(moved * each.state for each in costs.each),
            tuple((turns if is_full else moves) * around for around in overhead.moved),
            used,
        )

    dominator = seat("dominator", 1, shared, turns, follows=False)
    pinned = [n if b in costs.pinned else 0 for b, n in enumerate(costs.neurons)]
    hidden = [float(b not in costs.pinned) for b in range(len(pinned))]
    always = dominator.state_cost(pinned) - dominator.used
    dominator = replace(
        dominator,
        kept=tuple(map(mul, dominator.kept, hidden)),
        entered=tuple(map(mul, dominator.entered, hidden)),
    )
    return Problem(
        costs.neurons,
        costs.links,
        costs.pinned,
        (dominator, *_followers(costs, fleet, made, tree, seat, merged=is_full)),
        objective=Wire(
            2.0 * training.wire.dtype_bytes * samples, 2.0 * training.wire.overhead_bytes * passes
        ),
        sent=Wire(training.wire.dtype_bytes, training.wire.overhead_bytes / training.micro_batch),
        constant=always
        + turns * costs.state * is_full
        + sharing_bytes(costs.shared_weights, training, groups),
    )


def _check_samples(fleet: Fleet, sample_bytes: float) -> None:
    over = [
        f"class {kind.name}: its {kind.samples:,} samples alone take {held:,.0f} B of its max_memory of "
        f"{kind.max_memory:,} B"
        for kind in fleet.classes
        if kind.max_memory is not None and (held := kind.samples * sample_bytes) >= kind.max_memory
    ]
    if over:
        raise InfeasiblePlan(f"{'; '.join(over)}; give it fewer samples or more memory")


def budgets(costs: Costs, caps: Caps, *, follows: bool) -> tuple[Budget, ...]:
    """Return the caps that are linear in the neurons of one piece, a follower's if it `follows`."""
    macs = tuple(each.macs for each in costs.each)
    limits = [Budget("compute", "MAC", macs, (0.0,) * len(macs), 0.0, caps.macs)]
    if caps.memory < inf:
        limits += memory_budgets(costs.memory, caps.memory)
    if follows and costs.leak is not None:
        limits.append(costs.leak)
    return tuple(budget for budget in limits if budget.limit < inf)


def may_stay(costs: Costs, training: Training, fleet: Fleet, groups: int) -> float:
    """Return bytes that `group_problem` counts of a `full` rotation although they may stay in place:
    followers' pieces that no other device can afford, or that come back to their holder when the turns begin
    anew.
    """
    if training.rotation != "full":
        return 0.0
    pinned = sum(costs.neurons[b] * costs.each[b].state for b in costs.pinned)
    turns = sum(each.turns * times for each, times in compositions(fleet, groups).items())
    return turns * (costs.state - pinned + sum(costs.overhead.moved))


@dataclass(frozen=True)
class _Paired:
    """A place that every group has: what fits all of them, and the groups in which its piece moves."""

    caps: Caps
    kinds: tuple[str, ...]
    moving: int


def _paired(costs: Costs, fleet: Fleet, made: Counter[Composition], tree: Tree) -> list[_Paired]:
    """Return the places that all groups have, each group's matched with the best of the others'.

    A group with more places may put pieces elsewhere, so that fewer move there: none is counted then, which
    keeps the bound below every plan.
    """
    seats: list[_Paired] | None = None
    for composition, times in sorted(made.items(), key=lambda item: (item[0].size, item[0].classes)):
        here = [
            _Paired(place.caps, place.kinds, times * place.moves)
            for place in places(fleet, composition, tree, costs.sample_bytes)
        ]
        if seats is None:
            seats = here
            continue
        matched = []
        for seat in sorted(seats, key=lambda seat: (seat.caps, -seat.moving), reverse=True):
            other = min(here, key=lambda other: _misfit(seat, other))
            here.remove(other)
            matched.append((seat, other))
        counted = all(left.moving for left in here)
        seats = [
            _Paired(
                seat.caps.meet(other.caps),
                seat.kinds if seat.caps.meet(other.caps) == seat.caps else other.kinds,
                seat.moving + other.moving * counted,
            )
            for seat, other in matched
        ]
    return seats or []


def _misfit(seat: _Paired, other: _Paired) -> tuple[bool, bool, Caps]:
    """Return how badly a place suits another group's: the least that is enough suits best."""
    lacks = seat.caps.meet(other.caps) != seat.caps
    rest = other.caps if not lacks else Caps(-other.caps.macs, -other.caps.memory, -other.caps.uplink)
    return lacks, bool(seat.moving) != bool(other.moving), rest


def _followers(
    costs: Costs,
    fleet: Fleet,
    made: Counter[Composition],
    tree: Tree,
    seat: Callable[[str, int, Caps, int], Seat],
    *,
    merged: bool,
) -> list[Seat]:
    """Return seats that are filled in every group at every turn, equal ones counted together; `merged` if all
    move alike.
    """
    counts: Counter[tuple[Caps, int]] = Counter()
    names: dict[tuple[Caps, int], str] = {}
    for place in _paired(costs, fleet, made, tree):
        key = place.caps, 0 if merged else 2 * place.moving
        counts[key] += 1
        names.setdefault(key, " or ".join(place.kinds))
    found = sorted(counts.items(), key=lambda item: (item[0][0], -item[0][1]), reverse=True)
    return [seat(names[key], count, *key) for key, count in found]
