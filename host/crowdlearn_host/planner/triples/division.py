"""Which triple holds how much of each map, and which devices help in it: a mixed-integer program.

Divisions differ in the bytes of maps that several triples divide, and of helpers' thirds that move. A program
is for one number of triples. Under a dominator of each class that has samples, it gives every triple helpers
that afford it, of different owners. Whatever the turns are, those under that dominator are such helpers, and
of these one with samples moves at least twice an epoch: the program's bound is one of all turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

from crowdlearn_device.privacy.shares.replicated import HELPERS

from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.planner.solver.milp import Answer, Program

from .needs import UNITS, Needs, limits
from .prices import FIXED, Line, Price
from .sent import Held

Missing = Literal["infeasible", "not found in time"]
MOVES = 2
"""Moves in an epoch of a third whose helper has samples."""


@dataclass(frozen=True)
class Division:
    """The neurons of helper layers that each triple holds, and for each group choices of helpers that stay
    but for their own turns: one by the class of the first dominator.

    `bound` are bytes of an epoch below which no division is, of what they differ in, and `split` those of
    the parts of maps. `stretched` are caps that would have to grow: class, name, and how large.
    """

    held: Held
    homes: tuple[tuple[tuple[str, ...], ...], ...]
    split: float
    bound: float
    stretched: tuple[tuple[str, str, float], ...] = ()


class Divider:
    """Programs of one fleet, in these groups, of a network whose maps have these prices."""

    def __init__(
        self, fleet: Fleet, groups: Sequence[Sequence[str]], prices: Mapping[int, Price], dominator: Needs
    ) -> None:
        self._kinds, self._groups, self._prices = fleet.classes, groups, prices
        self._dominator = dominator
        """The dominator's needs beside one triple."""

    def divide(
        self, triples: int, *, seconds: float, room: float = 0.0, elastic: bool = False
    ) -> Division | Missing:
        """Return the division of least bytes, or if `elastic` of least stretched caps; or why there is none.
        `room` is a part of each cap that stays free.
        """
        made = _Program(self._kinds, self._groups, self._prices, triples)
        made.hold()
        made.afford(room, elastic=elastic)
        if not elastic:
            made.feed(self._dominator)
        made.help(elastic=elastic)
        answer = made.program.solve(seconds=seconds)
        if not answer.values:
            return "infeasible" if answer.infeasible else "not found in time"
        return made.read(answer)


class _Program:
    """The columns of a program: neurons and presences by triple and layer, helpers by group, class of the
    dominator, class and triple.
    """

    def __init__(
        self,
        kinds: Sequence[DeviceClass],
        groups: Sequence[Sequence[str]],
        prices: Mapping[int, Price],
        triples: int,
    ) -> None:
        self.program = Program()
        self._kinds, self._groups, self._prices = kinds, groups, prices
        self._triples = range(triples)
        self._neurons: dict[tuple[int, int], int] = {}
        self._present: dict[tuple[int, int], int] = {}
        self._may: dict[tuple[int, int], int] = {}
        self._stretch: dict[tuple[int, str], int] = {}
        self._helpers: dict[tuple[int, int, int, int], int] = {}
        self._thirds: dict[tuple[int, int, int], int] = {}

    def hold(self) -> None:
        """Divide every map's neurons: a triple has none, or three."""
        for layer, price in self._prices.items():
            for triple in self._triples:
                n = self.program.column(0, 0, price.neurons, integer=True)
                z = self.program.column(price.sent.once, 0, 1, integer=True)
                self._neurons[triple, layer], self._present[triple, layer] = n, z
                self.program.row(-inf, {n: 1, z: -price.neurons}, 0)
                self.program.row(0, {n: 1, z: -HELPERS}, inf)
            every = {self._neurons[triple, layer]: 1.0 for triple in self._triples}
            self.program.row(price.neurons, every, price.neurons)
        for triple in self._triples:
            self.program.row(1, {self._present[triple, layer]: 1 for layer in self._prices}, inf)
        for triple in self._triples[1:]:  # triples in the order of what they compute
            row = self._load(triple - 1, "compute")
            for column, value in self._load(triple, "compute").items():
                row[column] = row.get(column, 0.0) - value
            self.program.row(0, row, inf)

    def _load(self, triple: int, name: str) -> dict[int, float]:
        row = {}
        for layer, price in self._prices.items():
            row[self._neurons[triple, layer]] = price.loads[name].each
            row[self._present[triple, layer]] = price.loads[name].once
        return row

    def afford(self, room: float, *, elastic: bool) -> None:
        """Let classes of devices help in triples that they afford."""
        capped = [c for c, kind in enumerate(self._kinds) if min(limits(kind).values()) < inf]
        for c in capped:
            for name, limit in limits(self._kinds[c]).items():
                if elastic and limit < inf:
                    self._stretch[c, name] = self.program.column(1.0)
        if elastic:
            self.program.costs = [
                cost if column in self._stretch.values() else 0.0
                for column, cost in enumerate(self.program.costs)
            ]
        for triple in self._triples:
            loads = {name: self._load(triple, name) for name in UNITS}
            most = {name: sum(p.loads[name].at(p.neurons) for p in self._prices.values()) for name in UNITS}
            for lines in ([[p.products for p in self._prices.values()]], self._messages()):
                peak = self.program.column(0)
                loads["memory"][peak] = 1.0
                highest = 0.0
                for of in lines:
                    for layer, each in zip(self._prices, of, strict=True):
                        highest = max(highest, each.at(self._prices[layer].neurons))
                        n, z = self._neurons[triple, layer], self._present[triple, layer]
                        self.program.row(0, {peak: 1, n: -each.each, z: -each.once}, inf)
                most["memory"] += highest
            for c in capped:
                may = self._may[triple, c] = self.program.column(0, 0, 1, integer=True)
                for name, limit in limits(self._kinds[c]).items():
                    cap = limit * (1 - room) - FIXED[name]
                    if limit == inf or most[name] <= cap:
                        continue
                    row = {column: value / limit for column, value in loads[name].items()}
                    row[may] = (most[name] - cap) / limit
                    if elastic:
                        row[self._stretch[c, name]] = -1.0
                    self.program.row(-inf, row, most[name] / limit)

    def _messages(self) -> list[list[Line]]:
        return [list(each) for each in zip(*(p.messages for p in self._prices.values()), strict=True)]

    def feed(self, dominator: Needs) -> None:
        """Keep what dominators need, which is more where triples divide a map."""
        for name in UNITS:
            cap = min(limits(kind)[name] for kind in self._kinds if kind.samples)
            if cap == inf:
                continue
            row: dict[int, float] = {}
            least = getattr(dominator, name)
            for layer, price in self._prices.items():
                more = getattr(price.further, name)
                least -= more
                row |= {self._present[triple, layer]: more / cap for triple in self._triples}
            self.program.row(-inf, row, (cap - least) / cap * (1 + 1e-9))

    def help(self, *, elastic: bool) -> None:
        """Give each triple of each group three helpers, under each class of dominators."""
        for g, devices in enumerate(self._groups):
            here = [sum(name in devices for name in kind.names) for kind in self._kinds]
            feeding = [c for c, kind in enumerate(self._kinds) if here[c] and kind.samples]
            moves = self.program.column(0.0 if elastic else 1.0)
            for first in feeding:
                self._seat(g, first, here)
                if not elastic and sum(here[c] for c in feeding) > 1:
                    others = any(n for c, n in enumerate(here) if c not in feeding)
                    self._move(g, first, moves, others=others)

    def _seat(self, g: int, first: int, here: Sequence[int]) -> None:
        for c, count in enumerate(here):
            columns = [self.program.column(0, 0, HELPERS, integer=True) for _ in self._triples]
            for triple, column in enumerate(columns):
                self._helpers[g, first, c, triple] = column
                if (triple, c) in self._may:
                    self.program.row(-inf, {column: 1, self._may[triple, c]: -HELPERS}, 0)
            self.program.row(-inf, dict.fromkeys(columns, 1.0), count - (c == first))
        for triple in self._triples:
            of = {c: self._helpers[g, first, c, triple] for c in range(len(here))}
            self.program.row(HELPERS, dict.fromkeys(of.values(), 1.0), HELPERS)
            for owner in {kind.owner for kind in self._kinds if kind.owner}:
                row = {column: 1.0 for c, column in of.items() if self._kinds[c].owner == owner}
                self.program.row(-inf, row, 1)

    def _move(self, g: int, first: int, moves: int, *, others: bool) -> None:
        """Count the bytes that helpers with samples move, whose thirds are the smallest of their triple.
        Every helper has samples if there are no `others`.
        """
        total = {moves: 1.0}
        for triple in self._triples:
            with_samples = {
                self._helpers[g, first, c, triple]: -1.0 for c, kind in enumerate(self._kinds) if kind.samples
            }
            for rank in range(HELPERS):
                row = {}
                for layer, price in self._prices.items():
                    row[self._third(triple, layer, rank)] = MOVES * price.moved.each
                    row[self._present[triple, layer]] = MOVES * price.moved.once
                if not others:
                    for column, value in row.items():
                        total[column] = total.get(column, 0.0) - value
                    continue
                whole = MOVES * sum(p.moved.at(p.neurons // HELPERS + 1) for p in self._prices.values())
                moving = self.program.column(0)
                has = self.program.column(0, 0, 1, integer=True)
                with_samples[has] = 1.0
                row = {column: -value for column, value in row.items()}
                self.program.row(-whole, {**row, moving: 1, has: -whole}, inf)
                total[moving] = -1.0
            if others:
                self.program.row(0, with_samples, 0)
        self.program.row(0, total, inf)

    def _third(self, triple: int, layer: int, rank: int) -> int:
        """Return the column of the neurons of a triple's third, the smallest first."""
        key = triple, layer, rank
        if key not in self._thirds:
            column = self._thirds[key] = self.program.column(0, 0, inf, integer=True)
            # The least whole number from (n + rank - 2) / 3 on.
            n, z = self._neurons[triple, layer], self._present[triple, layer]
            self.program.row(0, {column: HELPERS, n: -1, z: HELPERS - 1 - rank}, inf)
        return self._thirds[key]

    def read(self, answer: Answer) -> Division:
        """Return the division of an answer."""

        def whole(column: int) -> int:
            return round(answer.values[column])

        held = tuple(
            {layer: n for layer in self._prices if (n := whole(self._neurons[triple, layer]))}
            for triple in self._triples
        )
        homes = []
        for g, devices in enumerate(self._groups):
            choices = []
            for first in dict.fromkeys(key[1] for key in self._helpers if key[0] == g):
                chosen: list[str] = []
                # Without samples first: they keep what a third has more than another.
                for triple in self._triples:
                    for c, kind in sorted(enumerate(self._kinds), key=lambda each: each[1].samples > 0):
                        free = [name for name in kind.names if name in devices and name not in chosen]
                        chosen += free[: whole(self._helpers[g, first, c, triple])]
                choices.append(tuple(chosen))
            homes.append(tuple(choices))
        split = sum(
            price.sent.once * sum(layer in of for of in held) for layer, price in self._prices.items()
        )
        stretched = tuple(
            (self._kinds[c].name, name, limits(self._kinds[c])[name] * (1 + answer.values[column]))
            for (c, name), column in self._stretch.items()
            if answer.values[column] > 1e-6
        )
        return Division(held, tuple(homes), split, answer.bound, stretched)
