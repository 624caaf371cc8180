"""Terms that every program of the planner shares: what a piece pays, and messages between present pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from crowdlearn_host.planner.problem.problem import Problem

from .hull import rooms
from .milp import Program


@dataclass(frozen=True)
class Terms:
    """Cost of a piece with a known pattern: `each` once, `neuron` per neuron of a free bundle."""

    each: float
    neuron: Mapping[int, float]


def sums(problem: Problem, seat: int, pattern: Sequence[int], prices: Sequence[float]) -> Terms:
    """Return what a piece with this pattern pays for the sums it sends, without the fixed cost of messages;
    `prices` by link, per target neuron.
    """
    present = {*pattern, *problem.pinned} if seat == 0 else set(pattern)
    each = 0.0
    neuron = dict.fromkeys(pattern, 0.0)
    for link, price in zip(problem.links, prices, strict=True):
        if link.source in present and not (seat == 0 and link.target in problem.pinned):
            each += price * problem.neurons[link.target]
            if link.target in neuron:
                neuron[link.target] -= price
    return Terms(each, neuron)


def least_pieces(problem: Problem) -> list[int]:
    """Return a lower bound on how many pieces must be present in each bundle."""
    least = [1] * len(problem.neurons)
    for b in problem.free:
        seats = []
        for c, seat in enumerate(problem.seats):
            if c or problem.dominator_hidden:
                room = rooms(problem, c, (b,))
                seats.extend([room[0] if room else 0] * seat.count)
        owned = 0
        least[b] = 0
        for room_here in sorted(seats, reverse=True):
            if owned >= problem.neurons[b]:
                break
            owned += room_here
            least[b] += 1
    return least


def add_presences(program: Program, problem: Problem) -> dict[int, int]:
    """Return a column per free bundle: how many pieces are present there."""
    most = sum(seat.count for seat in problem.seats)
    least = least_pieces(problem)
    return {b: program.column(0, min(least[b], most), most, integer=True) for b in problem.free}


def add_messages(program: Program, problem: Problem, presences: Mapping[int, int]) -> None:
    """Price k[s] * k[t] messages per link, k being presences; the caller takes off what a piece would send
    itself.

    The product of two integer columns is linear in the unary digits of one of them: digit j says k[s] >= j.
    """
    price = problem.objective.per_message
    if not price:
        return
    for link in problem.links:
        source, target = presences.get(link.source), presences.get(link.target)
        if source is None and target is None:
            program.column(price * link.messages, 1, 1)
        elif source is None or target is None:
            column = target if source is None else source
            assert column is not None
            program.costs[column] += price * link.messages
        else:
            product = program.column(price * link.messages)
            low, high = int(program.lower[source]), int(program.upper[source])
            least, most = program.lower[target], program.upper[target]
            row = {product: 1.0, target: -float(low)}
            digits: dict[int, float] = {}
            previous = None
            for _ in range(low, high):
                digit = program.column(0, 0, 1, integer=True)
                part = program.column(0)
                program.row(-most, {part: 1, target: -1, digit: -most}, inf)
                program.row(0, {part: 1, digit: -least}, inf)
                if previous is not None:
                    program.row(0, {previous: 1, digit: -1}, inf)
                digits[digit] = -1.0
                previous = digit
                row[part] = -1.0
            program.row(low, {source: 1, **digits}, low)
            program.row(0, row, inf)


def own_messages(problem: Problem, seat: int, pattern: Sequence[int]) -> float:
    """Return what `add_messages` charges for messages from a piece to itself, which are not sent."""
    present = {*pattern, *problem.pinned} if seat == 0 else set(pattern)
    own = sum(link.messages for link in problem.links if link.source in present and link.target in present)
    return problem.objective.per_message * own


def least_sent(problem: Problem, seat: int, pattern: Sequence[int]) -> Terms:
    """Return what such a piece sends per sample at least: its sums, and errors to the fewest sources there
    can be.
    """
    present = {*pattern, *problem.pinned} if seat == 0 else set(pattern)
    terms = sums(problem, seat, pattern, [problem.sent.per_float * link.floats for link in problem.links])
    each, neuron = terms.each, dict(terms.neuron)
    least = least_pieces(problem)
    for link in problem.links:
        others = max(least[link.source] - (link.source in present), 0)
        if link.target in neuron:
            neuron[link.target] += problem.sent.per_float * link.returned * others
        elif link.target in present:
            each += problem.sent.per_float * link.returned * problem.neurons[link.target] * others
        if link.target in present:
            each += problem.sent.per_message * link.returned_edges * others
        if link.source in present:
            owners = max(least[link.target] - (link.target in present), 0)
            each += problem.sent.per_message * link.edges * owners
    return Terms(each, neuron)


def add_sums(
    program: Program,
    problem: Problem,
    present: Mapping[int, int],
    owned: Mapping[int, int],
    *,
    dominator: bool,
) -> float:
    """Price what one piece sends, less its messages to itself, on its columns per free bundle.

    Returns what does not depend on its columns.
    """
    constant = 0.0
    for link in problem.links:
        pinned_here = dominator and link.target in problem.pinned
        rate = problem.objective.per_float * link.exchanged
        whole = 0.0 if pinned_here else rate * problem.neurons[link.target]
        message = -problem.objective.per_message * link.messages
        if dominator and link.source in problem.pinned:
            constant += whole + (message if pinned_here else 0.0)
            if link.target in owned:
                program.costs[owned[link.target]] -= rate
                program.costs[present[link.target]] += message
        elif link.source in present:
            program.costs[present[link.source]] += whole + (message if pinned_here else 0.0)
            if link.target in owned:
                own = program.column(-rate)
                program.row(0, {owned[link.target]: 1, own: -1}, inf)
                room = program.upper[owned[link.target]]
                program.row(0, {present[link.source]: room, own: -1}, inf)
                if message:
                    both = program.column(message, 0, 1)
                    program.row(0, {present[link.source]: 1, both: -1}, inf)
                    program.row(0, {present[link.target]: 1, both: -1}, inf)
    return constant
