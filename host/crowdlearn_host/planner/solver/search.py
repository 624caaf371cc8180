"""From a problem to its best division and a proven bound, within a time limit.

The exact program over patterns comes first and gives the bound. Its choices are handed out to single pieces;
what integer rounding or unlisted patterns leave open is improved, and on small problems closed, piece by
piece.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf
from random import Random

from crowdlearn_host.planner.problem.problem import Counts, Division, Problem, Seat, Wire, cost, violations

from .branch import branch_and_price
from .class_program import FEW_POINTS, Block, Branch, Chosen, Master, all_blocks, listable, make_block
from .clock import Deadline, Stopwatch
from .piece_program import seat_classes, solve_pieces
from .runs import division_of_runs

CLOSED = 1e-6
"""A relative gap below which an optimum counts as proven."""
LEAST_FREE, MOST_FREE = 4, 12
"""Pieces that are freed at a time to improve a division."""
FIRST_SHARE, FIRST_SECONDS = 0.05, 3.0
"""The share of the time, and the seconds, in which a first division is improved before anything is proven:
the longer of both, and half of the time at most.
"""
SPARES = 2
"""Empty seats of each class that a division may spread to at a time."""
SMALL = 60
"""Seats times bundles up to which the piece-by-piece program may close the gap on its own."""


@dataclass(frozen=True)
class Solution:
    """The best division found (None if there is none), its cost, a lower bound on any, and the time it
    took.
    """

    division: Division | None
    cost: float
    bound: float
    seconds: float
    infeasible: bool = False

    @property
    def gap(self) -> float:
        """Return (cost - bound) / cost."""
        return max(self.cost - self.bound, 0.0) / abs(self.cost) if self.cost and self.cost < inf else 0.0

    @property
    def optimal(self) -> bool:
        """Return True if no division is cheaper."""
        return self.division is not None and self.gap <= CLOSED


def search(problem: Problem, seconds: float, known: Iterable[Division] = ()) -> Solution:
    """Return the best division within `seconds` of the processor; never worse than a feasible one of
    `known`.
    """
    run = _Run(problem, seconds)
    for division in known:
        run.offer(division)
    return run.search()


class _Run:
    """One search. Programs see the problem in floats of one sample, without constants: numbers of a friendly
    size.
    """

    def __init__(self, problem: Problem, seconds: float) -> None:
        self.problem = problem
        self.unit = problem.objective.per_float
        self.scaled = replace(
            problem,
            objective=Wire(1.0, problem.objective.per_message / self.unit),
            seats=tuple(_in_units(seat, self.unit) for seat in problem.seats),
            constant=0.0,
        )
        self.watch = Stopwatch.start()
        self.seconds, self.deadline = seconds, Deadline.after(seconds)
        self.best: Division | None = None
        self.cost = inf
        self.bound = problem.constant
        self.tried = 0

    def offer(self, division: Division | None) -> bool:
        """Keep a division if it is feasible and cheaper than the best."""
        if division is None or violations(self.problem, division):
            return False
        division = in_order(without_empty(division))
        price = cost(self.problem, division)
        if price >= self.cost - 1e-9 * abs(price):
            return False
        self.best, self.cost = division, price
        return True

    def bounded(self, scaled: float) -> None:
        """Take note of a lower bound in scaled units."""
        self.bound = max(self.bound, min(scaled * self.unit + self.problem.constant, self.cost))

    def left(self, share: float = 1.0) -> float:
        """Return processor seconds until `share` of the time limit is used."""
        return self.deadline.left - (1 - share) * self.seconds

    @property
    def open(self) -> bool:
        if self.best is None:
            return self.left() > 0 and self.bound < inf
        return self.left() > 0 and self.cost - self.bound > CLOSED * abs(self.cost)

    def search(self) -> Solution:
        if listable(self.problem):
            chosen = Master(self.scaled, all_blocks(self.scaled)).solve(self.left(0.6))
            if chosen.infeasible:
                self.bounded(inf)  # the whole network in one piece may fit all the same
                return self._solution()
            self.bounded(chosen.bound)
            self._seat(chosen)
        else:
            self.offer(division_of_runs(self.problem))
            self._improve(max(FIRST_SHARE, min(FIRST_SECONDS / self.seconds, 0.5)))
            blocks = self._first_blocks()
            self.tried = len(blocks) if self.best is not None else 0
            until = self.deadline.sooner(0.05 * self.seconds)
            self.bounded(branch_and_price(self.scaled, blocks, until, self._target))
        if self.open:
            self._close()
        self._improve(1.0)
        return self._solution()

    def _target(self, blocks: list[Block], branch: Branch) -> float:
        """Return the bound that would do. Looks for divisions meanwhile: by diving until there is one, and
        among new blocks exactly.
        """
        if self.best is None:
            self._seat(Master(self.scaled, blocks, branch, penalised=True).dive())
        if self.best is not None and len(blocks) > 1.25 * self.tried:
            self.tried = len(blocks)
            self._seat(Master(self.scaled, blocks).solve(min(self.left(0.9), 0.04 * self.seconds)))
        return (self.cost * (1 - CLOSED) - self.problem.constant) / self.unit

    def _first_blocks(self) -> list[Block]:
        """Make blocks of neighbouring bundles on each class, and of what the known division uses."""
        problem = self.scaled
        runs = [
            problem.free[a : a + size] for size in range(1, 4) for a in range(len(problem.free) - size + 1)
        ]
        wanted: list[tuple[int, tuple[int, ...]]] = [(0, ())]
        for seat in range(len(problem.seats)):
            wanted += [(seat, run) for run in runs if seat or problem.dominator_hidden]
        if self.best is not None:
            patterns = [tuple(b for b in problem.free if counts[b]) for counts in self.best.counts]
            wanted += zip(self.best.seats, patterns, strict=True)
        made = (make_block(problem, seat, pattern, FEW_POINTS) for seat, pattern in dict.fromkeys(wanted))
        return [block for block in made if block is not None]

    def _seat(self, chosen: Chosen) -> None:
        """Hand the neurons of the chosen blocks out to single pieces."""
        if not chosen.choices:
            return
        placed = sorted(chosen.choices, key=lambda choice: choice.block.seat)
        seats = [choice.block.seat for choice in placed for _ in range(choice.pieces)]
        patterns = [choice.block.pattern for choice in placed for _ in range(choice.pieces)]
        division, _ = solve_pieces(
            self.scaled, seats, patterns=dict(enumerate(patterns)), seconds=max(self.left(0.85) / 2, 0.5)
        )
        self.offer(division)

    def _close(self) -> None:
        """Solve piece by piece, from the best division, with every seat."""
        seats = seat_classes(self.problem)
        small = len(seats) * len(self.problem.free) <= SMALL
        if not small and self.best is not None:
            return
        division, bound = solve_pieces(self.scaled, seats, start=self._padded(), seconds=self.left(0.95))
        self.offer(division)
        self.bounded(bound)

    def _padded(self) -> list[tuple[int, ...]]:
        """Return the best division with empty pieces on the seats that it leaves free."""
        if self.best is None:
            return []
        waiting = list(zip(self.best.seats, self.best.counts, strict=True))
        nothing = (0,) * len(self.problem.neurons)
        padded = []
        for seat in seat_classes(self.problem):
            padded.append(waiting.pop(0)[1] if waiting and waiting[0][0] == seat else nothing)
        return padded

    def _improve(self, share: float) -> None:
        """Search large neighbourhoods: free a piece and those that exchange most with it, keep the others,
        until `share` of the time limit is used; more of them when nothing is gained, and few again when many
        were freed.
        """
        random = Random(0)
        size, failures = LEAST_FREE, 0
        while self.best is not None and self.open and self.left(share) > 0:
            seats, padded = self._with_spares()
            size = min(size, len(seats))
            free = self._neighbours(padded, random, size)
            stay = {k: counts for k, counts in enumerate(padded) if k not in free}
            division, _ = solve_pieces(
                self.scaled, seats, stay=stay, start=padded, seconds=min(self.left(share), 3.0)
            )
            failures += 1
            if self.offer(division):
                failures = 0
            elif len(free) == len(seats) <= SMALL // max(len(self.problem.free), 1):
                break  # nothing was kept as it was
            if failures > 2 * len(seats):
                size, failures = size + 2, 0
                if size > min(MOST_FREE, len(seats)):
                    size = LEAST_FREE

    def _neighbours(self, pieces: list[Counts], random: Random, size: int) -> set[int]:
        """Return `size` pieces: any one, and those that exchange most with it, but for chance; every other
        time any.
        """
        if random.random() < 0.5:
            return set(random.sample(range(len(pieces)), size))
        chosen = pieces[random.randrange(len(pieces))]
        near = []
        for k, other in enumerate(pieces):
            exchanged = sum(
                link.exchanged * (here[link.target] if there[link.source] else 0)
                for link in self.problem.links
                for here, there in ((chosen, other), (other, chosen))
            )
            near.append((-exchanged * random.uniform(0.5, 1.0), random.random(), k))
        return {k for *_, k in sorted(near)[:size]}

    def _with_spares(self) -> tuple[list[int], list[Counts]]:
        """Return the seats that the best division uses and a few more of each class, and its pieces there."""
        assert self.best is not None
        nothing = (0,) * len(self.problem.neurons)
        seats, counts = list(self.best.seats), list(self.best.counts)
        for c, seat in enumerate(self.problem.seats):
            more = min(SPARES, seat.count - seats.count(c))
            seats += [c] * more
            counts += [nothing] * more
        return seats, counts

    def _solution(self) -> Solution:
        infeasible = self.best is None and self.bound == inf
        return Solution(self.best, self.cost, self.bound, self.watch.seconds, infeasible)


def _in_units(seat: Seat, unit: float) -> Seat:
    """Return the seat with what its pieces' state costs in so many bytes."""
    kept, entered = (tuple(cost / unit for cost in costs) for costs in (seat.kept, seat.entered))
    return replace(seat, kept=kept, entered=entered, used=seat.used / unit)


def without_empty(division: Division) -> Division:
    """Return the division without pieces that own nothing; the dominator's stays."""
    kept = [k for k, counts in enumerate(division.counts) if k == 0 or any(counts)]
    return Division(tuple(division.seats[k] for k in kept), tuple(division.counts[k] for k in kept))


def in_order(division: Division) -> Division:
    """Return the same division with equal seats in one order: the dominator, then classes, larger pieces
    first.
    """
    followers = sorted(
        zip(division.seats[1:], division.counts[1:], strict=True),
        key=lambda piece: (piece[0], [-x for x in piece[1]]),
    )
    return Division(
        (division.seats[0], *(seat for seat, _ in followers)),
        (division.counts[0], *(counts for _, counts in followers)),
    )
