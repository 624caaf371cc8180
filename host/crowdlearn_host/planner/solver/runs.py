"""A first division of a deep network, whose pieces are runs of neighbouring neurons.

Sums cross where a piece ends. So few ends are good, and pieces of neighbouring bundles have few. They are
found from the first bundle to the last: what a run costs does not depend on the others, but for messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import floor

from crowdlearn_host.planner.problem.problem import Budget, Counts, Division, Problem

WAYS, LEAST_WAYS = 8_000, 20
"""Ways that are followed further in all, the cheapest to each bundle, and how many of these at least."""
MANY = 1 << 60

Owned = tuple[tuple[int, int], ...]
"""The bundles that a piece is present in, and its neurons of each."""


@dataclass(frozen=True)
class _Way:
    """Pieces that own all neurons before some place: their cost, and the seat and neurons of the last."""

    cost: float
    seat: int
    run: Owned
    before: _Way | None

    def division(self, bundles: int) -> Division:
        seats: list[int] = []
        pieces: list[Counts] = []
        way: _Way | None = self
        while way is not None:
            owned = dict(way.run)
            seats.append(way.seat)
            pieces.append(tuple(owned.get(b, 0) for b in range(bundles)))
            way = way.before
        return Division(tuple(reversed(seats)), tuple(reversed(pieces)))


def division_of_runs(problem: Problem) -> Division | None:
    """Return the cheapest division into runs that is found; None if there is none. Uplinks are not looked at,
    nor messages.
    """
    return _Runs(problem).division()


class _Runs:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.free = problem.free
        self.links = [
            [
                (link.target, link.exchanged * problem.objective.per_float)
                for link in problem.links
                if link.source == b
            ]
            for b in range(len(problem.neurons))
        ]
        self.ends = cache(self._priced_ends)

    def division(self) -> Division | None:
        seats = tuple(seat.count for seat in self.problem.seats)
        # The places of a bundle: how many of its neurons are owned, and which seats are left.
        places: list[dict[tuple[int, tuple[int, ...]], _Way]] = [{} for _ in range(len(self.free) + 1)]
        self._go_on(places, 0, 0, (1, *seats[1:]), None, seats=(0,))
        kept = max(WAYS // max(len(self.free), 1), LEAST_WAYS)
        for k in range(len(self.free)):
            cheapest = sorted(places[k].items(), key=lambda item: item[1].cost)[:kept]
            for (owned, left), way in cheapest:
                others = [c for c, count in enumerate(left) if c and count]
                self._go_on(places, k, owned, left, way, seats=others)
        ends = places[-1].values()
        return min(ends, key=lambda way: way.cost).division(len(self.problem.neurons)) if ends else None

    def _go_on(
        self,
        places: list[dict[tuple[int, tuple[int, ...]], _Way]],
        k: int,
        owned: int,
        left: tuple[int, ...],
        before: _Way | None,
        *,
        seats: tuple[int, ...] | list[int],
    ) -> None:
        spent = before.cost if before is not None else 0.0
        for seat in seats:
            fewer = (*left[:seat], left[seat] - 1, *left[seat + 1 :])
            for end, rest, run, price in self.ends(seat, k, owned):
                known = places[end].get((rest, fewer))
                if known is None or spent + price < known.cost:
                    places[end][rest, fewer] = _Way(spent + price, seat, run, before)

    def _priced_ends(self, seat: int, k: int, owned: int) -> list[tuple[int, int, Owned, float]]:
        return [(*end, self._price(seat, end[-1])) for end in self._ends(seat, k, owned)]

    def _ends(self, seat: int, k: int, owned: int) -> Iterator[tuple[int, int, Owned]]:
        """Yield where a run on this seat may end, that begins behind `owned` neurons of the bundle at `k`:
        before which bundle, how many of its neurons are the run's or before it, and what the run owns.
        """
        neurons, budgets = self.problem.neurons, self.problem.seats[seat].budgets
        pinned = [(b, neurons[b]) for b in sorted(self.problem.pinned)] if seat == 0 else []
        left = [budget.limit * (1 + 1e-9) - budget.fixed for budget in budgets]
        for b, count in pinned:
            left = [x - _used(budget, b, count) for x, budget in zip(left, budgets, strict=True)]
        run = list(pinned)
        if seat == 0:
            yield k, owned, tuple(run)
        while k < len(self.free) and (seat or self.problem.dominator_hidden):
            b = self.free[k]
            wanted = neurons[b] - owned
            taken = min([wanted, *(_room(budget, b, x) for budget, x in zip(budgets, left, strict=True))])
            if taken <= 0:
                return
            run.append((b, taken))
            left = [x - _used(budget, b, taken) for x, budget in zip(left, budgets, strict=True)]
            k, owned = (k, owned + taken) if taken < wanted else (k + 1, 0)
            yield k, owned, tuple(run)
            if owned:
                return

    def _price(self, seat: int, run: Owned) -> float:
        """Return what a piece costs, but for messages."""
        neurons, owned = self.problem.neurons, dict(run)
        kept, entered = self.problem.kept(seat), self.problem.entered(seat)
        price = self.problem.seats[seat].used if any(b not in self.problem.pinned for b in owned) else 0.0
        for b, count in run:
            price += entered[b] + kept[b] * count
            for target, rate in self.links[b]:
                price += rate * (neurons[target] - owned.get(target, 0))
        return price


def _used(budget: Budget, bundle: int, count: int) -> float:
    return budget.per_presence[bundle] + budget.per_neuron[bundle] * count


def _room(budget: Budget, bundle: int, left: float) -> int:
    """Return how many neurons of a bundle fit into what is left of a budget."""
    left -= budget.per_presence[bundle]
    if left < 0:
        return 0
    return floor(left / budget.per_neuron[bundle]) if budget.per_neuron[bundle] else MANY
