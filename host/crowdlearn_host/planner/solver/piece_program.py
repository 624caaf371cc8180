"""The same problem piece by piece: exact for any number of pieces that may still change, beside others that
stay.

It turns choices into pieces, improves pieces, and closes what the aggregated program leaves open on small
problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf

from crowdlearn_host.planner.problem.problem import Counts, Division, Problem

from .hull import rooms
from .milp import Program
from .presence import add_messages, add_presences, add_sums


def seat_classes(problem: Problem) -> tuple[int, ...]:
    """Return the class of every seat, the dominator's first."""
    return tuple(c for c, seat in enumerate(problem.seats) for _ in range(seat.count))


def solve_pieces(
    problem: Problem,
    seats: Sequence[int],
    *,
    stay: Mapping[int, Counts] | None = None,
    patterns: Mapping[int, Sequence[int]] | None = None,
    start: Sequence[Counts] = (),
    seconds: float,
) -> tuple[Division | None, float]:
    """Return the best counts for pieces on `seats`, and a lower bound on them.

    Pieces of `stay` keep their counts; pieces of `patterns` may be present nowhere else.
    """
    return _PieceProgram(problem, seats, stay or {}, patterns or {}).solve(start, seconds)


class _PieceProgram:
    def __init__(
        self,
        problem: Problem,
        seats: Sequence[int],
        stay: Mapping[int, Counts],
        patterns: Mapping[int, Sequence[int]],
    ) -> None:
        self.problem, self.seats, self.stay = problem, tuple(seats), stay
        self.program = Program()
        self.presences = add_presences(self.program, problem)
        self.present: list[dict[int, int]] = []
        self.owned: list[dict[int, int]] = []
        for k, seat in enumerate(self.seats):
            self._piece(k, seat, patterns.get(k, problem.free))
        for b in problem.free:
            self.program.row(
                problem.neurons[b], {x[b]: 1.0 for x in self.owned if b in x}, problem.neurons[b]
            )
            self.program.row(0, {self.presences[b]: 1.0, **{z[b]: -1.0 for z in self.present if b in z}}, 0)
        for k in range(len(self.seats)):
            sent = add_sums(self.program, problem, self.present[k], self.owned[k], dominator=k == 0)
            self.program.column(sent, 1, 1)
            self._budgets(k)
        add_messages(self.program, problem, self.presences)
        self._break_symmetry()

    def _piece(self, k: int, seat: int, pattern: Sequence[int]) -> None:
        problem, program = self.problem, self.program
        present: dict[int, int] = {}
        owned: dict[int, int] = {}
        kept, entered = problem.kept(seat), problem.entered(seat)
        used = problem.seats[seat].used
        any_present = program.column(used, 0 if k else 1, 1, integer=True) if used else None
        for b in problem.free if seat or problem.dominator_hidden else ():
            fixed = self.stay[k][b] if k in self.stay else None
            room = rooms(problem, seat, (b,))
            most = (room[0] if room and b in pattern else 0) if fixed is None else fixed
            if most == 0:
                continue
            present[b] = program.column(entered[b], 0 if fixed is None else 1, 1, integer=True)
            owned[b] = program.column(kept[b], fixed or 0, most, integer=True)
            program.row(-inf, {owned[b]: 1, present[b]: -most}, 0)
            program.row(0, {owned[b]: 1, present[b]: -1}, inf)
            if any_present is not None:
                program.row(0, {any_present: 1, present[b]: -1}, inf)
        self.present.append(present)
        self.owned.append(owned)

    def _budgets(self, k: int) -> None:
        problem = self.problem
        present, owned = self.present[k], self.owned[k]
        if k and not present:
            return  # an empty seat uses nothing; where one neuron fits, so does what every piece uses
        for budget in problem.seats[self.seats[k]].budgets:
            pinned = problem.pinned if k == 0 else ()
            fixed = sum(budget.per_neuron[b] * problem.neurons[b] + budget.per_presence[b] for b in pinned)
            row = {x: budget.per_neuron[b] for b, x in owned.items()}
            row.update({z: budget.per_presence[b] for b, z in present.items()})
            self.program.row(-inf, row, budget.limit - budget.fixed - fixed)
        if problem.seats[self.seats[k]].uplink < inf:
            self._uplink(k)

    def _uplink(self, k: int) -> None:
        """Add sums and errors of one piece; products of a presence here with a presence or count there."""
        problem, program = self.problem, self.program
        wire, row, limit = problem.sent, dict[int, float](), problem.seats[self.seats[k]].uplink

        def add(column: int | None, value: float) -> None:
            nonlocal limit
            if column is None:
                limit -= value
            else:
                row[column] = row.get(column, 0.0) + value

        def product(first: int | None, second: int | None, most: float) -> int | None:
            """Return a column that is at least first * second, `first` being binary and `second` at most
            `most`.
            """
            if first is None:
                return second
            if second is None:
                return first
            both = program.column(0)
            program.row(-most, {both: 1, second: -1, first: -most}, inf)
            return both

        for link in problem.links:
            for other in range(len(self.seats)):
                if other == k:
                    continue
                sums, errors = (link.floats, link.edges), (link.returned, link.returned_edges)
                for sender, receiver, (floats, edges) in ((k, other, sums), (other, k, errors)):
                    source_pinned = sender == 0 and link.source in problem.pinned
                    target_pinned = receiver == 0 and link.target in problem.pinned
                    if not (source_pinned or link.source in self.present[sender]):
                        continue
                    if not (target_pinned or link.target in self.present[receiver]):
                        continue
                    z = None if source_pinned else self.present[sender][link.source]
                    y = None if target_pinned else self.present[receiver][link.target]
                    add(product(z, y, 1), wire.per_message * edges)
                    neurons = problem.neurons[link.target]
                    rate = wire.per_float * floats
                    if target_pinned:
                        add(z, rate * neurons)
                    else:
                        x = self.owned[receiver][link.target]
                        add(product(z, x, program.upper[x]), rate)
        program.row(-inf, row, limit)

    def _break_symmetry(self) -> None:
        """Require that of free pieces on equal seats an earlier one owns no less of the first bundles that
        can tell them apart.
        """
        free = [k for k in range(len(self.seats)) if k not in self.stay]
        for first, second in pairwise(free):
            equal = (
                self.seats[first] == self.seats[second]
                and self.owned[first].keys() == self.owned[second].keys()
            )
            if equal and self.owned[first]:
                b = next(iter(self.owned[first]))
                self.program.row(0, {self.owned[first][b]: 1, self.owned[second][b]: -1}, inf)

    def solve(self, start: Sequence[Counts], seconds: float) -> tuple[Division | None, float]:
        point: dict[int, float] = {}
        for counts, present, owned in zip(start, self.present, self.owned, strict=False):
            point.update({owned[b]: float(counts[b]) for b in owned})
            point.update({present[b]: float(counts[b] > 0) for b in present})
        answer = self.program.solve(seconds=seconds, start=point)
        if not answer.values:
            return None, answer.bound
        found = tuple(self._counts(k, answer.values) for k in range(len(self.seats)))
        return Division(self.seats, found), answer.bound

    def _counts(self, k: int, values: Sequence[float]) -> Counts:
        owned, problem = self.owned[k], self.problem
        whole = problem.pinned if k == 0 else frozenset()
        counts = []
        for b, neurons in enumerate(problem.neurons):
            counts.append(neurons if b in whole else round(values[owned[b]]) if b in owned else 0)
        return tuple(counts)
