"""The exact program: how many pieces of each seat class are present in which bundles, and how many neurons
they own.

A *pattern* is the set of bundles that a piece is present in. Given the patterns the objective is linear in
the neurons, and pieces of equal class and pattern are interchangeable. So one integer counts them and one
column per bundle holds what they own together: symmetry between devices never enters the program. With few
bundles every pattern is listed; with many, pricing.py generates them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from math import ceil, floor, inf
from typing import Any

from crowdlearn_host.planner.problem.problem import Problem

from .hull import Inequality, capacities, hull, rooms
from .milp import IDLE, SLACK, Answer, Basis, Program
from .presence import add_messages, add_presences, least_sent, own_messages, sums

MAX_LISTED = 1500
ALL_POINTS, FEW_POINTS = 40_000, 1_000
"""Points up to which the hull of a block is worth its time, where all patterns are listed and where they are
not.
"""
PENALTY = 1e3
"""The cost of what a row of a penalised program falls short by, per unit and in sums of all links."""
INTEGRAL = 1e-4
Part = Any
"""A part of the program: a block, a run or a pair that is split by, or the rest."""
Known = Mapping[Part, Basis]
"""A basis by the parts of a program."""


@dataclass(frozen=True)
class Block:
    """A seat class and the pattern of free bundles that a piece on it is present in, with what that costs
    and allows.

    Every row (coefficients, right) says coefficients . neurons <= right for one piece, and so for m pieces
    together with m * right. `each` is the cost of a piece, `rates` that of each of its neurons.
    """

    seat: int
    pattern: tuple[int, ...]
    each: float = field(compare=False)
    rates: tuple[float, ...] = field(compare=False)
    rows: tuple[Inequality, ...] = field(compare=False)


def make_block(problem: Problem, seat: int, pattern: tuple[int, ...], max_points: int) -> Block | None:
    """Return the block, or None if not one neuron of each bundle fits; hulls of more than `max_points` are
    left out.
    """
    most = rooms(problem, seat, pattern)
    if most is None:
        return None
    terms = sums(
        problem, seat, pattern, [problem.objective.per_float * link.exchanged for link in problem.links]
    )
    kept, entered = problem.kept(seat), sum(problem.entered(seat)[b] for b in pattern)
    rows = [(tuple(prices.tolist()), left) for prices, left in capacities(problem, seat, pattern)]
    for k, room in enumerate(most):
        unit = tuple(float(k == i) for i in range(len(most)))
        rows += [(unit, room), (tuple(-u for u in unit), -1.0)]
    rows += hull(problem, seat, pattern, most, max_points)
    if problem.seats[seat].uplink < inf:
        sent = least_sent(problem, seat, pattern)
        rows.append((tuple(sent.neuron[b] for b in pattern), problem.seats[seat].uplink - sent.each))
    return Block(
        seat,
        pattern,
        terms.each - own_messages(problem, seat, pattern) + problem.seats[seat].used + entered,
        tuple(terms.neuron[b] + kept[b] for b in pattern),
        tuple(rows),
    )


@dataclass(frozen=True)
class Choice:
    """A choice of `pieces` pieces of one block."""

    block: Block
    pieces: int


@dataclass(frozen=True)
class Chosen:
    """A solution of the exact program and a lower bound on the objective of every division."""

    choices: tuple[Choice, ...]
    objective: float
    bound: float
    infeasible: bool = False


def listable(problem: Problem) -> bool:
    """Return whether all patterns can be listed."""
    return len(problem.seats) << len(problem.free) <= MAX_LISTED


def all_blocks(problem: Problem) -> list[Block]:
    """Return every block that at least one neuron per bundle of its pattern fits in."""
    blocks = []
    for seat in range(len(problem.seats)):
        largest = len(problem.free) if seat or problem.dominator_hidden else 0
        for size in range(min(seat, 1), largest + 1):
            for pattern in combinations(problem.free, size):
                block = make_block(problem, seat, pattern, ALL_POINTS)
                blocks += [block] if block else []
    return blocks


@dataclass(frozen=True)
class Branch:
    """The bounds on whole numbers that every division has: presences in a run of bundles (a tuple of them)
    together, pieces present in both of two bundles, and pieces on a seat class. Together they split the
    divisions into parts that can be bounded alone.
    """

    present: Mapping[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)
    both: Mapping[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    seated: Mapping[int, tuple[int, int]] = field(default_factory=dict)


class Master:
    """The exact program over some blocks; `solve` it as a whole, or `relax` it for its duals.

    Where it is `penalised`, every row that wants pieces has a slack, so that it is never infeasible for want
    of blocks.
    """

    def __init__(
        self,
        problem: Problem,
        blocks: Iterable[Block],
        branch: Branch | None = None,
        *,
        penalised: bool = False,
    ) -> None:
        self.problem = problem
        self.branch = branch or Branch()
        self.blocks = list(dict.fromkeys(blocks))
        self.program = Program()
        self._parts: dict[Part, tuple[int, int]] = {}
        self.presences = add_presences(self.program, problem)
        self._end(None)
        self.columns = [self._columns(block) for block in self.blocks]
        self.penalised, self.slacks = penalised, list[int]()
        self.present_rows = {b: self._presence_row(b, column) for b, column in self.presences.items()}
        self.cover_rows = {b: self._cover_row(b) for b in problem.free}
        self.seat_rows = [self._seat_row(seat) for seat in range(len(problem.seats))]
        add_messages(self.program, problem, self.presences)
        self._end("links")
        for run, (low, high) in self.branch.present.items():
            self.program.row(low, self.presence_of(run), high)
            self._end(run)
        self.both_rows = {pair: self._both_row(pair, bounds) for pair, bounds in self.branch.both.items()}

    def _end(self, part: Part) -> None:
        """Note that all columns and rows since the part before are of this one."""
        self._parts[part] = len(self.program.costs), len(self.program.rows)

    def presence_of(self, run: Iterable[int]) -> dict[int, float]:
        """Return the coefficients of the presences in a run of bundles together."""
        return {self.presences[b]: 1.0 for b in run}

    def both_of(self, pair: tuple[int, int]) -> dict[int, float]:
        """Return the coefficients of the pieces that are present in both of two bundles."""
        blocks = zip(self.blocks, self.columns, strict=True)
        return {m: 1.0 for block, (m, _) in blocks if {*pair} <= {*block.pattern}}

    def _columns(self, block: Block) -> tuple[int, dict[int, int]]:
        # No upper bounds: the rows imply them, and a bound would take on duals that pricing must see on the
        # rows.
        program = self.program
        pieces = program.column(block.each, integer=True)
        neurons = {
            b: program.column(rate, integer=True) for b, rate in zip(block.pattern, block.rates, strict=True)
        }
        for coefficients, right in block.rows:
            program.row(-inf, {**dict(zip(neurons.values(), coefficients, strict=True)), pieces: -right}, 0)
        self._end(block)
        return pieces, neurons

    def _slack(self, sign: float = 1.0) -> dict[int, float]:
        """Return what a row may fall short by, at a penalty."""
        if not self.penalised:
            return {}
        problem = self.problem
        worst = sum(link.exchanged * problem.neurons[link.target] for link in problem.links)
        self.slacks.append(self.program.column(PENALTY * worst * problem.objective.per_float))
        return {self.slacks[-1]: sign}

    def _presence_row(self, bundle: int, presence: int) -> int:
        pieces = {
            m: -1.0
            for block, (m, _) in zip(self.blocks, self.columns, strict=True)
            if bundle in block.pattern
        }
        return self.program.row(0, {presence: 1.0, **pieces, **self._slack(-1.0)}, 0)

    def _both_row(self, pair: tuple[int, int], bounds: tuple[int, int]) -> int:
        row = self.program.row(bounds[0], self.both_of(pair) | self._slack(), bounds[1])
        self._end(("both", pair))
        return row

    def _cover_row(self, bundle: int) -> int:
        neurons = self.problem.neurons[bundle]
        owned = {columns[bundle]: 1.0 for _, columns in self.columns if bundle in columns}
        return self.program.row(neurons, owned | self._slack(), neurons)

    def _seat_row(self, seat: int) -> int:
        pieces = {
            m: 1.0 for block, (m, _) in zip(self.blocks, self.columns, strict=True) if block.seat == seat
        }
        low, high = self.seat_bounds(seat)
        return self.program.row(low, pieces | self._slack(), high)

    def seat_bounds(self, seat: int) -> tuple[int, int]:
        """Return the fewest and most pieces on a seat class."""
        count = self.problem.seats[seat].count
        return self.branch.seated.get(seat, (count if seat == 0 else 0, count))

    def solve(self, seconds: float) -> Chosen:
        """Return the best choices among these blocks."""
        return self._chosen(self.program.solve(seconds=seconds))

    def _chosen(self, answer: Answer) -> Chosen:
        choices = []
        for block, (pieces, _) in zip(self.blocks, self.columns, strict=True):
            count = int(answer.values[pieces] + 0.5) if answer.values else 0
            if count:
                choices.append(Choice(block, count))
        return Chosen(tuple(choices), answer.objective, answer.bound, answer.infeasible)

    def dive(self) -> Chosen:
        """Round the relaxation up one block at a time, the one nearest to whole first; may end in nothing."""
        program = self.program
        settled: set[int] = set()
        while True:
            answer = self.relax()
            if not answer.values or any(answer.values[slack] > INTEGRAL for slack in self.slacks):
                return Chosen((), inf, -inf)
            open_columns = [
                m for m, _ in self.columns if answer.values[m] % 1 > INTEGRAL and m not in settled
            ]
            if not open_columns:
                return self._chosen(answer)
            nearest = max(open_columns, key=lambda m: answer.values[m] % 1)
            settled.add(nearest)
            lower, upper = program.lower[nearest], program.upper[nearest]
            program.lower[nearest] = program.upper[nearest] = ceil(answer.values[nearest])
            attempt = self.relax()
            if not attempt.values or any(attempt.values[slack] > INTEGRAL for slack in self.slacks):
                program.lower[nearest], program.upper[nearest] = lower, floor(answer.values[nearest])
            else:
                program.lower[nearest], program.upper[nearest] = ceil(answer.values[nearest]), upper

    def relax(self, known: Known | None = None) -> Answer:
        """Return the linear relaxation with its duals, found from what is `known` of another one's basis."""
        return self.program.solve(relaxed=True, basis=self._begun(known) if known else None)

    def known(self, basis: Basis | None) -> Known:
        """Return a basis part by part, for programs that have these parts and others."""
        found, columns, rows = {}, 0, 0
        if basis is not None:
            for part, (last_column, last_row) in self._parts.items():
                found[part] = Basis(basis.columns[columns:last_column], basis.rows[rows:last_row])
                columns, rows = last_column, last_row
        return found

    def _begun(self, known: Known) -> Basis:
        """Return a basis of this program, in which parts that are not known do nothing."""
        columns, rows = list[Any](), list[Any]()
        for part, (last_column, last_row) in self._parts.items():
            of = known.get(part, Basis((), ()))
            columns += of.columns or [IDLE] * (last_column - len(columns))
            rows += of.rows or [SLACK] * (last_row - len(rows))
        return Basis(tuple(columns), tuple(rows))
