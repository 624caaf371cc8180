"""The plan of slices on shares: groups, what each triple holds, who helps at every turn, and what that costs.

Sums cost the same with any helpers, and more only for a map that several triples divide. So fewest bytes are
few moves (turns.py) and few divided maps (division.py). Every number of triples is compared that may be
better than the best one. So the plan is the best of all, or the certificate tells how far it may be from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import count, pairwise
from math import inf, prod
from operator import add
from typing import Literal

from crowdlearn_device.privacy.shares.replicated import HELPERS
from crowdlearn_device.state.piece_state import kinds_of
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.helpers import PIECES, plan_for_helpers, plan_of_triples, with_helper_layers
from crowdlearn_host.planner.plan import Certificate, EpochBytes, GroupPlan, Plan, Turn
from crowdlearn_host.planner.problem.costs import Training, sharing_bytes
from crowdlearn_host.planner.problem.epoch import sharings, snapshot_heirs, snapshots
from crowdlearn_host.planner.problem.fleet import Fleet, deal
from crowdlearn_host.planner.problem.state_bytes import state_overhead
from crowdlearn_host.planner.solver.clock import Deadline, Stopwatch

from .division import MOVES, Divider, Division
from .needs import Network, limits, over, stretched, uses
from .prices import prices_of
from .sent import Held, Sent, pass_bytes
from .turns import turns_of

EXPLAINING = 3.0
"""The longest time of an explanation, for each number of triples, in processor seconds."""
ROOM = 1e-3
"""The part of caps that stays free where a division that fits lines is over a cap by a message's header."""


def plan_on_shares(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    *,
    first_layer: Literal["kept", "shared"],
    group_size: int | None = None,
    seconds: float = 60.0,
) -> tuple[Plan, NeuronGraph]:
    """Return the plan that sends fewest bytes, and the graph with helper layers that it divides. The search
    takes so many processor seconds at most.

    Raises InfeasiblePlan, which says what to relax, if no group has triples of different owners beside every
    dominator that afford their parts.
    """
    if any(kind.joules_limit is not None for kind in fleet.classes):
        raise InfeasiblePlan(
            "energy is not planned for on shares; leave max_joules and battery_share out, or plan with "
            "another form of sums"
        )
    watch, deadline = Stopwatch.start(), Deadline.after(seconds)
    helped = with_helper_layers(graph, first_layer=first_layer == "shared")
    network = Network(graph, helped, replace(training, rotation="minimal"), first_layer == "shared")
    network = replace(network, training=replace(network.training, micro_batch=network.rows))
    plan_for_helpers(helped, network.rows)  # raises PlanError if nothing is on shares
    search = _Search(network, fleet, deal(fleet, _groups(fleet, group_size)), deadline)
    held, turned, bound = search.best()
    sent = traffic(network, fleet, held, turned)
    plan = plan_of_triples(helped, network.rows, held)
    parts = [network.of_dominator(held), *(network.of_helper(of) for of in held for _ in range(HELPERS))]
    pieces = tuple(
        replace(
            piece,
            seat="helper" if k else "dominator",
            macs=needs.compute,
            memory_bytes=needs.memory,
            uplink_bytes=needs.uplink,
            budgets=uses(fleet, needs, dominator=k == 0),
            classes=tuple(c.name for c in fleet.classes if (k or c.samples) and not over(c, needs)),
        )
        for k, (piece, needs) in enumerate(zip(plan.pieces, parts, strict=True))
    )
    whole = replace(
        plan,
        pieces=pieces,
        shares=first_layer,
        rotation="minimal",
        groups=turned,
        traffic=sent,
        certificate=Certificate(sent.total, min(bound, sent.total), watch.seconds, watch.processor_seconds),
        training=network.training,
        fleet=fleet,
    )
    return whole, helped


def owners_of(fleet: Fleet) -> dict[str, str]:
    """Return the owner of every device by name; a device of a class without one has an owner of its own."""
    return {
        name: f"owner {kind.owner}" if kind.owner else f"device {name}"
        for kind in fleet.classes
        for name in kind.names
    }


def _groups(fleet: Fleet, group_size: int | None) -> int:
    """Return the number of groups, each with a dominator and three helpers, and a device with samples: as few
    as can be, for each further group shares weights once more.
    """
    if fleet.size < PIECES:
        raise InfeasiblePlan(
            f"the fleet has {fleet.size} devices, and a dominator and a triple of helpers are {PIECES}; add "
            "devices"
        )
    size = fleet.size if group_size is None else min(group_size, fleet.size)
    feeds = {name for kind in fleet.classes if kind.samples for name in kind.names}
    number = max(fleet.size // size, 1)
    if all(len(devices) >= PIECES and feeds & {*devices} for devices in deal(fleet, number)):
        return number
    raise InfeasiblePlan(
        f"groups of {size} devices: each needs {PIECES}, one of them with samples; make groups larger"
    )


Found = tuple[Held, tuple[GroupPlan, ...], float]
"""A division: neurons by triple, groups with their turns, and the bytes of an epoch."""


class _Search:
    """The search for the best number of triples, and their division."""

    def __init__(
        self, network: Network, fleet: Fleet, groups: Sequence[Sequence[str]], deadline: Deadline
    ) -> None:
        self._network, self._fleet, self._groups, self._deadline = network, fleet, groups, deadline
        self._kinds = {name: kind for kind in fleet.classes for name in kind.names}
        dominator = network.of_dominator(network.whole)
        for kind in fleet.classes:
            if kind.samples and (lacking := over(kind, dominator)):
                raise InfeasiblePlan(f"no plan meets every budget; it would take {lacking} as dominator")
        self._divider = Divider(fleet, groups, prices_of(network, fleet), dominator)
        room = sum(n // HELPERS for n in network.whole[0].values())
        self._most = min(room, min(len(devices) - 1 for devices in groups) // HELPERS)
        """The most triples that groups and the network have room for."""

    def best(self) -> Found:
        """Return the best division, its turns, and a bound on the bytes of all."""
        best: Found | None = None
        bound = inf
        for triples in count(1):
            least = self._least(triples) if triples <= self._most else inf
            if triples > self._most or (best is not None and best[2] <= least * (1 + 1e-9)):
                break
            if triples > 1 and self._deadline.left <= 0:
                break
            found, below = self._with(triples, least)
            bound = min(bound, below)
            if found is not None and (best is None or found[2] < best[2]):
                best = found
        if best is None:
            raise InfeasiblePlan(self._why(proven=bound == inf and triples > self._most))
        return best[0], best[1], min(bound, least)

    def _with(self, triples: int, bound: float) -> tuple[Found | None, float]:
        """Return the best division into so many triples, if one is found, and the bound for these: the given
        one, or a better one.
        """
        for room in (0.0, ROOM):
            seconds = max(self._deadline.left / 2, 1.0)
            division = self._divider.divide(triples, seconds=seconds, room=room)
            if not isinstance(division, Division):
                return None, bound if room or division == "not found in time" else inf
            held = division.held
            if not room:
                settled = self._traffic(held, self._settled(triples))
                bound = max(bound, settled - division.split + division.bound)
            if turned := self._turned(division):
                return (held, turned, self._traffic(held, turned)), bound
        return None, bound

    def _turned(self, division: Division) -> tuple[GroupPlan, ...]:
        """Return the groups with turns that move least, of the division's choices of helpers; none if one has
        no turns.
        """
        parts = [self._network.of_dominator(division.held)]
        parts += [self._network.of_helper(of) for of in division.held for _ in range(HELPERS)]
        owner, found = owners_of(self._fleet), []
        for devices, choices in zip(self._groups, division.homes, strict=True):
            dominators = [name for name in devices if self._kinds[name].samples]
            takers = [[name for name in devices if not over(self._kinds[name], needs)] for needs in parts]
            own = {name: owner[name] for name in devices}
            turns = [turns_of(dominators, homes, takers, own) for homes in choices]
            groups = [GroupPlan(tuple(devices), each) for each in turns if each is not None]
            if not groups:
                return ()
            states = _states(self._network, division.held)
            found.append(min(groups, key=lambda group: sum(_ways(states, group))))
        return tuple(found)

    def _settled(self, triples: int) -> list[GroupPlan]:
        """Return groups whose helpers never move."""
        helpers = [f"helper {k}" for k in range(HELPERS * triples)]
        return [
            GroupPlan(
                tuple(devices),
                tuple(Turn((name, *helpers)) for name in devices if self._kinds[name].samples),
            )
            for devices in self._groups
        ]

    def _least(self, triples: int) -> float:
        """Return bytes below which no division into so many triples is: none divides a map, and helpers move
        only where every device has samples.
        """
        whole = self._network.whole
        held = (*whole, *({} for _ in range(triples - 1)))
        total = self._traffic(held, self._settled(triples))
        for devices in self._groups:
            feeding = [name for name in devices if self._kinds[name].samples]
            if len(feeding) == len(devices):
                total += MOVES * sum(_states(self._network, whole)[1:])
        return total

    def _traffic(self, held: Held, groups: Sequence[GroupPlan]) -> float:
        return traffic(self._network, self._fleet, held, groups).total

    def _why(self, *, proven: bool) -> str:
        """Return what no plan can meet, and the smallest change that would help."""
        reasons: list[tuple[float, list[str]]] = []
        for triples in range(1, self._most + 1):
            division = self._divider.divide(triples, seconds=EXPLAINING, elastic=True)
            if isinstance(division, Division):
                kinds = {kind.name: kind for kind in self._fleet.classes}
                grown = [(kinds[kind], name, needed) for kind, name, needed in division.stretched]
                ways = [f"{stretched(kind, name, needed)} as helper" for kind, name, needed in grown]
                reasons.append((sum(needed / limits(kind)[name] - 1 for kind, name, needed in grown), ways))
        if reasons:
            verdict = "no plan meets every budget" if proven else "no plan was found in time"
            ways = min(reasons)[1]
            return f"{verdict}; it would take {' and '.join(ways) or 'more --seconds'}"
        owners = len({*owners_of(self._fleet).values()})
        return (
            f"no three helpers of different owners beside every dominator: {self._fleet.size} devices are of "
            f"{owners} owners; it would take devices of further owners"
        )


def _states(network: Network, held: Held) -> list[float]:
    """Return the bytes of each piece's state when it moves."""
    graph, training = network.helped, network.training
    ranked, slots = training.theta < 1, training.slots
    around = state_overhead(
        graph, [(layer,) for layer in range(len(graph.layers))], slots=slots, ranked=ranked
    )
    copies = len(kinds_of(slots, rank=ranked))
    found = []
    for piece in plan_of_triples(graph, network.rows, held).pieces:
        floats = sum(
            piece.owned[spec.layer] * prod(spec.shape) * (copies if spec.trained else 1)
            for spec in array_specs(graph)
        )
        extra = sum(more for more, neurons in zip(around.moved, piece.owned, strict=True) if neurons)
        found.append(FLOAT * floats + extra)
    return found


def _ways(states: Sequence[float], group: GroupPlan) -> list[float]:
    """Return the bytes that move from each turn to the next, and from the last to the first."""
    return [
        sum(size for a, b, size in zip(old.devices, new.devices, states, strict=True) if a != b)
        for old, new in pairwise((*group.turns, group.turns[0]))
    ]


def traffic(network: Network, fleet: Fleet, held: Held, groups: Sequence[GroupPlan]) -> EpochBytes:
    """Return bytes of an epoch, by purpose."""
    graph, training = network.helped, network.training
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    ranked, slots = training.theta < 1, training.slots
    owned = [piece.owned for piece in plan_of_triples(graph, network.rows, held).pieces]
    passes = [
        pass_bytes(
            graph,
            kinds[turn.devices[0]].samples,
            training.batch,
            slots,
            ranked=ranked,
            held=held,
            private=training.private,
        )
        for group in groups
        for turn in group.turns
    ]
    sums = reduce(add, passes, Sent())
    each = [(layer,) for layer in range(len(graph.layers))]
    around = state_overhead(graph, each, slots=slots, ranked=ranked)
    states = _states(network, held)
    ways = [_ways(states, group) for group in groups]
    count = len(groups)
    learned = sum(
        graph.layers[spec.layer].neurons * prod(spec.shape) for spec in array_specs(graph) if not spec.frozen
    )
    shared = sharing_bytes(learned, training, count) + len(owned) * sharings(count) * around.update
    within = sum(s for piece in owned for s, n in zip(around.stored, piece, strict=True) if n)
    stored = snapshots(training, fleet, count, len(owned))
    return EpochBytes(
        sums.activation,
        sums.error,
        sum(map(sum, ways)),
        shared,
        stored * (sum(states) + within + len(owned) * around.snapshot),
        around.heir * snapshot_heirs(training, fleet, count, len(owned)),
        sum(way[-1] for way in ways),
        shared / 2 if count > 1 else 0.0,
    )
