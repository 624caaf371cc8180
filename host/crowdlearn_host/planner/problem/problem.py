"""The planning problem in numbers: how many neurons of every bundle each seat takes, and what that costs.

A seat is a place in a group that a device takes; seats with the same budgets form a class. A piece that owns
neurons of a bundle is *present* there. For every link it sends, for each neuron of the target bundle that it
does not own, one sum (the paper's "weighted sum"); where something learns from it, the error comes back the
same way. So with counts x and presences z a link from bundle s to bundle t moves

    sum over pieces p of z[p, s] * (N[t] - x[p, t])   sums forward, and as many errors backward, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from operator import mul

Counts = tuple[int, ...]
"""Neurons of one piece, per bundle."""


@dataclass(frozen=True)
class BundleLink:
    """Linear maps from one bundle to another: `floats` per target neuron and sample, over `edges` parallel
    edges. Of these, errors come back for all but the `silent` floats, on all but the `silent_edges`.
    """

    source: int
    target: int
    floats: int
    edges: int = 1
    silent: int = 0
    silent_edges: int = 0

    @property
    def returned(self) -> int:
        """Return floats of errors that come back per target neuron and sample."""
        return self.floats - self.silent

    @property
    def returned_edges(self) -> int:
        return self.edges - self.silent_edges

    @property
    def exchanged(self) -> float:
        """Return the mean of the floats there and back, which is what an objective prices."""
        return (self.floats + self.returned) / 2

    @property
    def messages(self) -> float:
        """Return the mean of the messages there and back per micro-batch and pair of pieces."""
        return (self.edges + self.returned_edges) / 2


@dataclass(frozen=True)
class Budget:
    """A linear limit: per_neuron . counts + per_presence . presences + fixed <= limit, in `unit`.

    `alone` may tell the counts of the whole network, and what a piece uses that owns it: less than that. A
    `hard` one is not stretched where the smallest relaxation is searched for.
    """

    name: str
    unit: str
    per_neuron: tuple[float, ...]
    per_presence: tuple[float, ...]
    fixed: float
    limit: float
    alone: tuple[Counts, float] | None = None
    hard: bool = False

    def use(self, counts: Sequence[int]) -> float:
        """Return how much of it a piece with these counts uses."""
        if self.alone is not None and tuple(counts) == self.alone[0]:
            return self.alone[1]
        present = sum(cost for cost, count in zip(self.per_presence, counts, strict=True) if count)
        return self.fixed + present + sum(a * x for a, x in zip(self.per_neuron, counts, strict=True))


@dataclass(frozen=True)
class Seat:
    """A class of `count` equal places. `uplink` limits what a piece sends per sample, in the units of a
    `Wire`. A piece here costs its state, as that moves and is stored: `kept` by bundle for each neuron,
    `entered` by bundle that it is present in, and `used`.
    """

    name: str
    count: int
    budgets: tuple[Budget, ...] = ()
    uplink: float = inf
    kept: tuple[float, ...] = ()
    entered: tuple[float, ...] = ()
    used: float = 0.0

    def state_cost(self, counts: Sequence[int]) -> float:
        """Return cost of the state of a piece with these counts."""
        if not any(counts):
            return 0.0
        entered = sum(cost for cost, count in zip(self.entered, counts, strict=False) if count)
        return self.used + entered + sum(map(mul, self.kept, counts))


@dataclass(frozen=True)
class Wire:
    """The cost of one float and of one message."""

    per_float: float = 1.0
    per_message: float = 0.0


@dataclass(frozen=True)
class Problem:
    """The problem of choosing the pieces of one group.

    Seat class 0 is the dominator's, with count 1: it owns the `pinned` bundles whole and, where
    `dominator_hidden`, may own others. `objective` prices all sums of an epoch together with the errors that
    answer them; `sent` prices those of one sample, each by itself, as they count against uplinks.
    """

    neurons: tuple[int, ...]
    links: tuple[BundleLink, ...]
    pinned: frozenset[int]
    seats: tuple[Seat, ...]
    objective: Wire = Wire()
    sent: Wire = Wire()
    constant: float = 0.0
    dominator_hidden: bool = True

    @property
    def free(self) -> tuple[int, ...]:
        """Return the bundles that may be sliced."""
        return tuple(b for b in range(len(self.neurons)) if b not in self.pinned)

    def kept(self, seat: int) -> tuple[float, ...]:
        """Return cost per bundle of each neuron that a piece on this seat class owns."""
        return self.seats[seat].kept or (0.0,) * len(self.neurons)

    def entered(self, seat: int) -> tuple[float, ...]:
        """Return cost per bundle that a piece on this seat class is present in."""
        return self.seats[seat].entered or (0.0,) * len(self.neurons)


@dataclass(frozen=True)
class Division:
    """Pieces and the seat classes they sit on; the first is the dominator's."""

    seats: tuple[int, ...]
    counts: tuple[Counts, ...]


def forward_floats(problem: Problem, counts: Sequence[Counts]) -> int:
    """Return floats sent forward per sample, in the paper's accounting: one per present source and target not
    owned.
    """
    return sum(link.floats * sums for link, sums in zip(problem.links, _sums(problem, counts), strict=True))


def traffic(problem: Problem, counts: Sequence[Counts]) -> tuple[float, float]:
    """Return what sums cost, and what the errors do that answer them."""
    wire, links = problem.objective, problem.links
    sums, pairs = _sums(problem, counts), _pairs(problem, counts)

    def price(floats: Sequence[int], edges: Sequence[int]) -> float:
        sent = sum(map(mul, floats, sums)), sum(map(mul, edges, pairs))
        return (wire.per_float * sent[0] + wire.per_message * sent[1]) / 2

    return (
        price([link.floats for link in links], [link.edges for link in links]),
        price([link.returned for link in links], [link.returned_edges for link in links]),
    )


def _sums(problem: Problem, counts: Sequence[Counts]) -> list[int]:
    """Return for every link the target neurons that its present sources do not own."""
    return [
        sum(problem.neurons[link.target] - piece[link.target] for piece in counts if piece[link.source])
        for link in problem.links
    ]


def _pairs(problem: Problem, counts: Sequence[Counts]) -> list[int]:
    """Return for every link the pairs of pieces between which there are messages."""
    return [
        sum(
            sender is not receiver and bool(receiver[link.target])
            for sender in counts
            if sender[link.source]
            for receiver in counts
        )
        for link in problem.links
    ]


def cost(problem: Problem, division: Division) -> float:
    """Return the objective."""
    kept = sum(
        problem.seats[seat].state_cost(counts)
        for seat, counts in zip(division.seats, division.counts, strict=True)
    )
    return problem.constant + kept + sum(traffic(problem, division.counts))


def most_cost(problem: Problem) -> float:
    """Return a cost that no division exceeds: as if every seat had a piece, present everywhere, that owned
    nothing.
    """
    pieces = sum(seat.count for seat in problem.seats)
    floats = pieces * sum(link.exchanged * problem.neurons[link.target] for link in problem.links)
    messages = pieces * (pieces - 1) * sum(link.messages for link in problem.links)
    kept = sum(seat.count * seat.state_cost(problem.neurons) for seat in problem.seats)
    wire = problem.objective
    return problem.constant + kept + wire.per_float * floats + wire.per_message * messages


def uplink(problem: Problem, counts: Sequence[Counts], piece: int) -> float:
    """Return what one piece sends per sample: its sums forward, and the errors of its neurons to their other
    sources.
    """
    return _exchanged(problem, counts, piece, sends=True)


def downlink(problem: Problem, counts: Sequence[Counts], piece: int) -> float:
    """Return what one piece receives per sample: sums for its neurons from other sources, and the
    errors that answer its own sums.
    """
    return _exchanged(problem, counts, piece, sends=False)


def _exchanged(problem: Problem, counts: Sequence[Counts], piece: int, *, sends: bool) -> float:
    """Return what one piece sends, or receives: what crosses a link one way at its sources, and the other way
    at its targets.
    """
    mine, total = counts[piece], 0.0
    for link in problem.links:
        sums, errors = (link.floats, link.edges), (link.returned, link.returned_edges)
        at_source, at_target = (sums, errors) if sends else (errors, sums)
        others = sum(k != piece and bool(other[link.source]) for k, other in enumerate(counts))
        owners = sum(k != piece and bool(other[link.target]) for k, other in enumerate(counts))
        floats = at_target[0] * mine[link.target] * others
        messages = at_target[1] * (others if mine[link.target] else 0)
        if mine[link.source]:
            floats += at_source[0] * (problem.neurons[link.target] - mine[link.target])
            messages += at_source[1] * owners
        total += problem.sent.per_float * floats + problem.sent.per_message * messages
    return total


def violations(problem: Problem, division: Division) -> list[str]:
    """Return what is wrong with a division, in words; empty when it is feasible."""
    wrong = []
    for b, neurons in enumerate(problem.neurons):
        owned = sum(piece[b] for piece in division.counts)
        if owned != neurons:
            wrong.append(f"bundle {b}: {owned} neurons of {neurons} are owned")
    for k, (seat, counts) in enumerate(zip(division.seats, division.counts, strict=True)):
        for budget in problem.seats[seat].budgets:
            if budget.use(counts) > budget.limit * (1 + 1e-9):
                wrong.append(
                    f"piece {k}: {budget.name} {budget.use(counts):.6g} of {budget.limit:.6g} {budget.unit}"
                )
        sent = uplink(problem, division.counts, k)
        if sent > problem.seats[seat].uplink * (1 + 1e-9):
            wrong.append(f"piece {k}: uplink {sent:.6g} of {problem.seats[seat].uplink:.6g}")
    for c, kind in enumerate(problem.seats):
        if division.seats.count(c) > kind.count:
            wrong.append(f"{division.seats.count(c)} pieces on {kind.count} seats of {kind.name}")
    return wrong
