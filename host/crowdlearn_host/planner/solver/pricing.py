"""Patterns by pricing (Dantzig-Wolfe): the relaxation asks for the blocks that would improve it.

A small mixed-integer program per seat class finds the block of least reduced cost. The Lagrangian bound that
follows from these holds for all blocks, listed or not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from math import inf

from crowdlearn_host.planner.problem.problem import Problem, most_cost

from .class_program import FEW_POINTS, Block, Branch, Known, Master, make_block
from .clock import Deadline
from .hull import capacities, rooms
from .milp import Program
from .presence import add_sums


@dataclass(frozen=True)
class Relaxed:
    """The relaxation of a branch over all blocks: a lower bound, how many pieces each block has in it, and
    the basis of its optimum.
    """

    bound: float
    pieces: Mapping[Block, float]
    known: Known


def generate(
    problem: Problem,
    blocks: list[Block],
    branch: Branch,
    enough: float,
    deadline: Deadline,
    known: Known | None = None,
) -> Relaxed:
    """Bound a branch over every block, adding to `blocks` those that its relaxation wants. It begins with
    what is `known` of the basis of the branch that it was split from.

    Pricing stops when no block improves the relaxation, when the bound is within a few ten-thousandths of it
    or reaches `enough`, or at `deadline`. A bound that no division can cost proves that
    the branch has none: it becomes infinite.
    """
    bound, dearest = -inf, most_cost(problem)
    while True:
        master = Master(problem, blocks, branch, penalised=True)
        answer = master.relax(known)
        if not answer.values:
            return Relaxed(inf if answer.infeasible else bound, {}, {})
        known = master.known(answer.basis)
        tolerance = 2e-4 * abs(answer.objective)
        seats = range(len(problem.seats))
        most = [master.seat_bounds(seat)[1] for seat in seats]
        left = max(deadline.left, 0.05)
        slack = [tolerance / max(count * len(seats), 1) for count in most]
        with ThreadPoolExecutor() as threads:
            priced = threads.map(
                price, repeat(problem), seats, repeat(master), repeat(answer.duals), slack, repeat(left)
            )
            prices = list(priced)
        value = answer.objective
        for seat, (reduced, _) in zip(seats, prices, strict=True):
            value += most[seat] * (reduced if seat == 0 else min(reduced, 0.0))
        found = [block for _, block in prices]
        bound = max(bound, value)
        if bound > dearest * (1 + 1e-6):
            return Relaxed(inf, {}, {})
        new = [block for block in found if block is not None and block not in blocks]
        closed = answer.objective - bound <= 2 * tolerance
        if not new or closed or bound >= enough or deadline.left <= 0:
            pieces = {
                block: answer.values[m] for block, (m, _) in zip(master.blocks, master.columns, strict=True)
            }
            return Relaxed(bound, pieces, known)
        blocks += new


def price(
    problem: Problem, seat: int, master: Master, duals: Sequence[float], slack: float, seconds: float
) -> tuple[float, Block | None]:
    """Return the least reduced cost of any piece on this seat class, as a proven lower bound, and the block
    that has it.
    """
    program = Program()
    constant = problem.seats[seat].used - duals[master.seat_rows[seat]]
    present: dict[int, int] = {}
    owned: dict[int, int] = {}
    kept, entered = problem.kept(seat), problem.entered(seat)
    for b in problem.free if seat or problem.dominator_hidden else ():
        room = rooms(problem, seat, (b,))
        if room is None:
            continue
        present[b] = program.column(entered[b] + duals[master.present_rows[b]], 0, 1, integer=True)
        owned[b] = program.column(kept[b] - duals[master.cover_rows[b]], 0, room[0], integer=True)
        program.row(-inf, {owned[b]: 1, present[b]: -room[0]}, 0)
        program.row(0, {owned[b]: 1, present[b]: -1}, inf)
    constant += add_sums(program, problem, present, owned, dominator=seat == 0)
    for pair, row in master.both_rows.items():
        if duals[row] and pair[0] in present and pair[1] in present:
            first, second = present[pair[0]], present[pair[1]]
            both = program.column(-duals[row], 0, 1)
            program.row(0, {first: 1, both: -1}, inf)
            program.row(0, {second: 1, both: -1}, inf)
            program.row(-1, {both: 1, first: -1, second: -1}, inf)
    for (prices, left), budget in zip(
        capacities(problem, seat, tuple(owned)), problem.seats[seat].budgets, strict=True
    ):
        left += sum(budget.per_presence[b] for b in owned)
        own = dict(zip(owned.values(), prices.tolist(), strict=True))
        program.row(-inf, {**own, **{z: budget.per_presence[b] for b, z in present.items()}}, left)
    if seat:
        program.row(1, dict.fromkeys(present.values(), 1.0), inf)
    if not program.costs:
        idle = make_block(problem, seat, (), FEW_POINTS) if seat == 0 else None
        return (constant, idle) if idle is not None else (0.0, None)
    answer = program.solve(seconds=seconds, absolute_gap=slack, small=True)
    if answer.infeasible:
        return 0.0, None
    if not answer.values:
        return answer.bound + constant, None
    pattern = tuple(b for b, z in present.items() if answer.values[z] > 0.5)
    known = next((block for block in master.blocks if (block.seat, block.pattern) == (seat, pattern)), None)
    return answer.bound + constant, known or make_block(problem, seat, pattern, FEW_POINTS)
