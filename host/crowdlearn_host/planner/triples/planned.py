"""The plan of slices on shares: groups, the triple of every turn, and what all of it costs.

Sums cost the same with any helpers. What can be decided are the groups and who moves when: turns.py moves
least, and every number of groups is compared, so the plan is the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise
from math import inf, prod
from operator import add
from typing import Literal

from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.privacy.shares.replicated import HELPERS
from crowdlearn_device.state.piece_state import kinds_of
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import array_specs

from crowdlearn_host.errors import InfeasiblePlan
from crowdlearn_host.planner.helpers import helper_layers, plan_for_helpers, with_helper_layers
from crowdlearn_host.planner.plan import BudgetUse, Certificate, EpochBytes, GroupPlan, Plan
from crowdlearn_host.planner.problem.costs import Training, sharing_bytes
from crowdlearn_host.planner.problem.epoch import sharings, snapshot_heirs, snapshots
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet, deal
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES
from crowdlearn_host.planner.problem.places import caps_of
from crowdlearn_host.planner.problem.state_bytes import state_overhead
from crowdlearn_host.planner.shares import shares_cost
from crowdlearn_host.planner.solver.clock import Stopwatch

from .sent import Sent, mini_batch_bytes, pass_bytes
from .turns import turns_of

PIECES = 1 + HELPERS
MESSAGES = 3
"""Copies of an array on its way: encoded, sealed, framed."""


@dataclass(frozen=True)
class _Needs:
    """MACs and bytes sent for each sample of a whole mini-batch, and bytes of memory, of one part."""

    compute: float
    memory: float
    uplink: float


def plan_on_shares(
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    *,
    first_layer: Literal["kept", "shared"],
    group_size: int | None = None,
) -> tuple[Plan, NeuronGraph]:
    """Return the plan that sends fewest bytes, and the graph with helper layers that it divides.

    Raises InfeasiblePlan, which says what to relax, if no group has three helpers of different owners beside
    every dominator that afford their parts.
    """
    if any(kind.joules_limit is not None for kind in fleet.classes):
        raise InfeasiblePlan(
            "energy is not planned for on shares; leave max_joules and battery_share out, or plan with "
            "another form of sums"
        )
    watch = Stopwatch.start()
    helped = with_helper_layers(graph, first_layer=first_layer == "shared")
    plan = plan_for_helpers(helped, _room(training))
    training = replace(training, micro_batch=_room(training), rotation="minimal")
    parts = (
        _dominator(graph, helped, training, plan, first_layer),
        _helper(graph, helped, training, first_layer),
    )
    found = []
    for groups in _numbers(fleet, group_size):
        turned = tuple(_group(fleet, devices, parts) for devices in deal(fleet, groups))
        found.append((_traffic(helped, training, fleet, plan, turned), turned))
    traffic, turned = min(found, key=lambda each: each[0].total)
    pieces = tuple(
        replace(
            piece,
            seat="helper" if k else "dominator",
            macs=parts[min(k, 1)].compute,
            memory_bytes=parts[min(k, 1)].memory,
            uplink_bytes=parts[min(k, 1)].uplink,
            budgets=_uses(fleet, parts[min(k, 1)], dominator=k == 0),
            classes=tuple(
                c.name for c in fleet.classes if (k or c.samples) and not _over(c, parts[min(k, 1)])
            ),
        )
        for k, piece in enumerate(plan.pieces)
    )
    whole = replace(
        plan,
        pieces=pieces,
        shares=first_layer,
        rotation="minimal",
        groups=turned,
        traffic=traffic,
        certificate=Certificate(traffic.total, traffic.total, watch.seconds, watch.processor_seconds),
        training=training,
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


def _numbers(fleet: Fleet, group_size: int | None) -> list[int]:
    """Return numbers of groups to compare: each has a dominator and three helpers, and a device with
    samples.
    """
    if fleet.size < PIECES:
        raise InfeasiblePlan(
            f"the fleet has {fleet.size} devices, and a dominator and a triple of helpers are {PIECES}; add "
            "devices"
        )
    sizes = range(PIECES, fleet.size + 1) if group_size is None else [min(group_size, fleet.size)]
    feeds = {name for kind in fleet.classes if kind.samples for name in kind.names}
    numbers = sorted({fleet.size // size for size in sizes})
    able = [n for n in numbers if n and all(len(d) >= PIECES and feeds & {*d} for d in deal(fleet, n))]
    if not able:
        raise InfeasiblePlan(
            f"groups of {group_size or PIECES} devices: each needs {PIECES}, one of them with samples; make "
            "groups larger"
        )
    return able if group_size is not None else able[:1]  # each further group shares weights once more


def _group(fleet: Fleet, devices: Sequence[str], parts: tuple[_Needs, _Needs]) -> GroupPlan:
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    dominators = [name for name in devices if kinds[name].samples]
    for kind in dict.fromkeys(kinds[name] for name in dominators):
        if over := _over(kind, parts[0]):
            raise InfeasiblePlan(f"no plan meets every budget; it would take {over} as dominator")
    able = [name for name in devices if not _over(kinds[name], parts[1])]
    owner = owners_of(fleet)
    turns = turns_of(dominators, able, owner)
    if turns is None:
        weak = dict.fromkeys(filter(None, (_over(kinds[name], parts[1]) for name in devices)))
        ways = [*(f"{over} as helper" for over in weak), "devices of further owners"]
        raise InfeasiblePlan(
            f"no three helpers of different owners beside every dominator: {len(able)} of {len(devices)} "
            f"devices afford a helper's part, of {len({owner[d] for d in able})} owners; it would take "
            f"{', or '.join(ways)}"
        )
    return GroupPlan(tuple(devices), turns)


def _limits(kind: DeviceClass) -> dict[str, float]:
    caps = caps_of(kind)
    return {"compute": caps.macs, "memory": caps.memory, "uplink": caps.uplink}


UNITS = {"compute": "MAC", "memory": "B", "uplink": "B"}


def _over(kind: DeviceClass, needs: _Needs) -> str:
    """Return what a class of devices lacks for a part, in words; "" if nothing."""
    lacking = [
        f"{name} {getattr(needs, name):,.0f} {UNITS[name]} on {kind.name} (limit {limit:,.0f}, "
        f"{100 * (getattr(needs, name) / limit - 1):+.1f} %)"
        for name, limit in _limits(kind).items()
        if getattr(needs, name) > limit * (1 + 1e-9)
    ]
    return " and ".join(lacking)


def _uses(fleet: Fleet, needs: _Needs, *, dominator: bool) -> tuple[BudgetUse, ...]:
    """Return the tightest cap of each kind among the classes that take the part."""
    takers = [kind for kind in fleet.classes if (kind.samples or not dominator) and not _over(kind, needs)]
    least = {name: min((_limits(kind)[name] for kind in takers), default=inf) for name in UNITS}
    return tuple(
        BudgetUse(name, UNITS[name], getattr(needs, name), limit)
        for name, limit in least.items()
        if limit < inf
    )


def _room(training: Training) -> int:
    """Return samples that a mini-batch has room for."""
    return most_drawn(training.batch) if training.private else training.batch


def _dominator(
    graph: NeuronGraph, helped: NeuronGraph, training: Training, plan: Plan, first_layer: str
) -> _Needs:
    private, rows = training.private, _room(training)
    cost = shares_cost(graph, first_layer=first_layer == "shared", private=private)
    local = sum(
        (3 if layer.index in graph.backward else 1) * len(layer.ops) * layer.neurons * layer.sum_floats
        for layer in graph.layers
    )
    layers = set(helper_layers(helped))
    copies = 2 + len(training.slots)  # weights, what the optimizer keeps, gradients
    state = FLOAT * copies * sum(n for layer, n in _floats(helped).items() if layer not in layers)
    kept = 2 * sum(layer.neurons * (layer.sum_floats + layer.output_floats) for layer in graph.layers)
    shared = (4 if private else 3) * sum(
        _ends(helped, layer)[0] + _ends(helped, layer)[1] for layer in layers
    )
    widest = max(max(_ends(helped, layer)) for layer in layers)
    memory = PROCESS_BYTES + state + FLOAT * rows * (kept + shared + (MESSAGES + HELPERS) * widest)
    if private:  # each map's noise, and three parts of its gradient
        memory += FLOAT * (1 + HELPERS) * sum(_floats(helped)[layer] for layer in layers)
    sent = mini_batch_bytes(helped, rows, private=private).by_dominator / training.batch
    return _Needs(cost.dominator_macs + local, memory, sent)


def _helper(graph: NeuronGraph, helped: NeuronGraph, training: Training, first_layer: str) -> _Needs:
    private, batch = training.private, _room(training)
    cost = shares_cost(graph, first_layer=first_layer == "shared", private=private)
    floats, layers = _floats(helped), helper_layers(helped)
    whole = sum(floats[layer] for layer in layers)
    state = FLOAT * (2 + len(training.slots)) * whole  # with its own third, as it began
    opened = FLOAT * (HELPERS + 1) * whole
    ends = [_ends(helped, layer) for layer in layers]
    pairs = 2 * FLOAT * batch * sum(a + b for a, b in ends)
    # Factors and product as doubles, and what they are cut from.
    products = max(
        2 * 2 * FLOAT * (batch * (a + b) + floats[layer]) for layer, (a, b) in zip(layers, ends, strict=True)
    )
    messages = MESSAGES * FLOAT * max(batch * max(map(max, ends)), max(floats[layer] for layer in layers))
    memory = PROCESS_BYTES + state + opened + pairs + products + messages
    sent = mini_batch_bytes(helped, batch, private=private).by_helpers / HELPERS / training.batch
    return _Needs(cost.helper_macs_per_sample(training.batch), memory, sent)


def _floats(graph: NeuronGraph) -> dict[int, int]:
    """Return floats of weights by the layer that keeps them."""
    found = dict.fromkeys(range(len(graph.layers)), 0)
    for spec in array_specs(graph):
        found[spec.layer] += graph.layers[spec.layer].neurons * prod(spec.shape)
    return found


def _ends(graph: NeuronGraph, layer: int) -> tuple[int, int]:
    """Return floats of a sample that enter and leave a helpers' map."""
    source, target = graph.layers[layer], graph.layers[graph.outgoing(layer)[0].target]
    return source.neurons * source.output_floats, target.neurons * target.sum_floats


def _traffic(
    graph: NeuronGraph, training: Training, fleet: Fleet, plan: Plan, groups: Sequence[GroupPlan]
) -> EpochBytes:
    """Return bytes of an epoch, by purpose."""
    kinds = {name: kind for kind in fleet.classes for name in kind.names}
    ranked, slots = training.theta < 1, training.slots
    owned = [piece.owned for piece in plan.pieces]
    passes = [
        pass_bytes(
            graph,
            kinds[turn.devices[0]].samples,
            training.batch,
            slots,
            ranked=ranked,
            owned=owned,
            private=training.private,
        )
        for group in groups
        for turn in group.turns
    ]
    sums = reduce(add, passes, Sent())
    each = [(layer,) for layer in range(len(graph.layers))]
    around = state_overhead(graph, each, slots=slots, ranked=ranked)
    copies = len(kinds_of(slots, rank=ranked))
    state = []
    for piece in owned:
        floats = sum(
            piece[spec.layer] * prod(spec.shape) * (copies if spec.trained else 1)
            for spec in array_specs(graph)
        )
        extra = sum(more for more, neurons in zip(around.moved, piece, strict=True) if neurons)
        state.append(FLOAT * floats + extra)
    ways = [
        [
            sum(size for a, b, size in zip(old.devices, new.devices, state, strict=True) if a != b)
            for old, new in pairwise((*group.turns, group.turns[0]))
        ]
        for group in groups
    ]
    count = len(groups)
    learned = sum(
        graph.layers[spec.layer].neurons * prod(spec.shape) for spec in array_specs(graph) if not spec.frozen
    )
    shared = sharing_bytes(learned, training, count) + PIECES * sharings(count) * around.update
    within = sum(s for piece in owned for s, n in zip(around.stored, piece, strict=True) if n)
    stored = snapshots(training, fleet, count, PIECES)
    return EpochBytes(
        sums.activation,
        sums.error,
        sum(map(sum, ways)),
        shared,
        stored * (sum(state) + within + PIECES * around.snapshot),
        around.heir * snapshot_heirs(training, fleet, count, PIECES),
        sum(way[-1] for way in ways),
        shared / 2 if count > 1 else 0.0,
    )
