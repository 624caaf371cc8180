"""Plan: which piece owns which neurons, on which devices, at what cost, and how good that provably is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Literal

from crowdlearn_device.platform.files import not_to_read, write_atomically
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from pydantic import TypeAdapter, ValidationError

from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import DeviceClass, Fleet
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION, Rotation

Range = tuple[int, int]
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class BudgetUse:
    """The part of a hard limit that a piece uses, in `unit`."""

    name: str
    unit: str
    used: float
    limit: float

    @property
    def share(self) -> float:
        """Return used / limit."""
        return self.used / self.limit if self.limit else float(self.used > 0)


@dataclass(frozen=True)
class PiecePlan:
    """The neurons of one piece: per layer a range [start, stop), in the order of `Plan.order`.

    `seat` names the class of devices that take it, `classes` all that can afford it (of the dominator's piece
    those with samples); none if they are not computed. `macs` (forward and backward) and `uplink_bytes` are
    per sample.
    """

    neurons: tuple[Range, ...]
    seat: str = ""
    macs: float = 0.0
    memory_bytes: float = 0.0
    uplink_bytes: float = 0.0
    budgets: tuple[BudgetUse, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def owned(self) -> tuple[int, ...]:
        """Return neurons by layer."""
        return tuple(stop - start for start, stop in self.neurons)


@dataclass(frozen=True)
class EpochBytes:
    """Bytes that devices send per epoch, of all groups: sums, errors, state that changes hands, weights
    that are shared (and, of several groups, those that come back). Beside them, and no part of what
    is minimised, are sealed `snapshots` for spare devices and the `keys` by which these open them: a
    plan with a piece on every device would have none. Of the shuffles `returning` is the way back to
    the first turn, which the first epoch of a run spares; of the sharing `downloads` are what the
    server sends.
    """

    forward: float
    backward: float
    shuffles: float
    sharing: float
    snapshots: float = 0.0
    keys: float = 0.0
    returning: float = 0.0
    downloads: float = 0.0

    @property
    def total(self) -> float:
        """Return the planner's objective."""
        return self.forward + self.backward + self.shuffles + self.sharing

    def sent(self, epochs: int) -> dict[str, float]:
        """Return bytes that devices send in a run of so many epochs, by purpose as the relay counts them."""
        return {
            "activation": epochs * self.forward,
            "error": epochs * self.backward,
            "shuffle": epochs * self.shuffles - self.returning,
            "sharing": epochs * (self.sharing - self.downloads),
            "recovery": epochs * (self.snapshots + self.keys),
        }


@dataclass(frozen=True)
class DeviceJoules:
    """Joules that a device spends on an epoch beyond idling, modelled: on computing, and on its radio."""

    device: str
    compute: float
    radio: float

    @property
    def total(self) -> float:
        """Return both together."""
        return self.compute + self.radio


@dataclass(frozen=True)
class Certificate:
    """No plan sends fewer than `bound` bytes per epoch; this one sends `cost`. Found in `seconds` by the
    clock, `processor_seconds` of the processor.
    """

    cost: float
    bound: float
    seconds: float
    processor_seconds: float = 0.0

    @property
    def gap(self) -> float:
        """Return (cost - bound) / cost."""
        return max(self.cost - self.bound, 0.0) / self.cost if self.cost else 0.0

    @property
    def optimal(self) -> bool:
        """Return True if the plan is proven optimal."""
        return self.gap <= 1e-6


@dataclass(frozen=True)
class Turn:
    """One pass: the device that holds each piece; the first is the dominator."""

    devices: tuple[str, ...]


@dataclass(frozen=True)
class GroupPlan:
    """Devices that train one copy of the network, and who holds what at each turn of an epoch."""

    devices: tuple[str, ...]
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Plan:
    """Pieces of one group, the same for every group.

    `order[layer]` lists the model's neurons in slice order; () keeps the model's own. `micro_batch`, in
    samples, and `staleness` are what its memory was computed with; 0 if it was not. `training` is all of
    that, and `fleet` the devices that it is for, if they are known. `joules` are those of an epoch, of
    devices whose class has what a MAC and a byte cost. `shares` says of a plan of slices on shares whether
    the first layer is kept or shared, too.
    """

    pieces: tuple[PiecePlan, ...]
    order: tuple[tuple[int, ...], ...] = ()
    model: str = ""
    micro_batch: int = 0
    staleness: int = 0
    rotation: Rotation = DEFAULT_ROTATION
    groups: tuple[GroupPlan, ...] = field(default=())
    traffic: EpochBytes | None = None
    certificate: Certificate | None = None
    training: Training | None = None
    fleet: Fleet | None = None
    joules: tuple[DeviceJoules, ...] = ()
    shares: Literal["", "kept", "shared"] = ""

    @property
    def seats(self) -> dict[str, int]:
        """Return the number of every device in training: group after group. In the order of the fleet, which
        was dealt out to the groups in turn.
        """
        numbers = itertools.count()
        groups = [[(name, next(numbers)) for name in group.devices] for group in self.groups]
        return dict(seat for row in itertools.zip_longest(*groups) for seat in row if seat is not None)

    @property
    def class_of(self) -> dict[str, DeviceClass]:
        """Return the class of every device, by name."""
        kinds = self.fleet.classes if self.fleet is not None else ()
        return {name: kind for kind in kinds for name in kind.names}


def plan_from_counts(graph: NeuronGraph, counts: Sequence[Sequence[int]]) -> Plan:
    """Return a plan whose piece k has `counts[k][l]` neurons of layer l, in order.

    Raises PlanError if the counts of a layer do not add up to its neurons.
    """
    starts = [0] * len(graph.layers)
    pieces = []
    for count in counts:
        neurons = []
        for layer, n in enumerate(count):
            neurons.append((starts[layer], starts[layer] + n))
            starts[layer] += n
        pieces.append(PiecePlan(tuple(neurons)))
    for owned, total in zip(graph.layers, starts, strict=True):
        if total != owned.neurons:
            raise PlanError(
                f"layer {owned.name}: pieces own {total} neurons of {owned.neurons}; make them add up"
            )
    return Plan(tuple(pieces), model=graph.name)


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan as JSON."""
    write_atomically(path, plan_json(plan, indent=1) + b"\n")


def plan_json(plan: Plan, *, indent: int | None = None) -> bytes:
    """Return the plan as a JSON document, which `load_plan` reads."""
    return TypeAdapter(Plan).dump_json(plan, indent=indent, by_alias=True)


def is_plan(text: str) -> bool:
    """Return whether it is what `save_plan` wrote, for whatever network."""
    try:
        TypeAdapter(Plan).validate_json(text)
    except ValidationError:
        return False
    return True


def read_plan(path: Path) -> Plan:
    """Read a plan, whatever its network. Raises PlanError if it cannot be read or is damaged."""
    try:
        if why := not_to_read(path, MAX_BYTES):
            raise PlanError(f"{path} {why}; is it a plan?")
        return TypeAdapter(Plan).validate_json(path.read_bytes())
    except OSError as error:
        raise PlanError(f"{path} cannot be read ({error}); write it with 'crowdlearn plan --save'") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PlanError(
            f"{path}: {where}: {first['msg']}; write it anew with 'crowdlearn plan --save'"
        ) from error


def load_plan(path: Path, graph: NeuronGraph) -> Plan:
    """Read a plan for this network. Raises PlanError if it cannot be read, is damaged, or is another
    network's.
    """
    plan = read_plan(path)
    try:
        check_plan(plan, graph)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from error
    return plan


def check_plan(plan: Plan, graph: NeuronGraph) -> None:
    """Raise PlanError unless the plan cuts this network completely, with input and output layer in piece 0.
    Each device must be in one group and hold one piece at a time.
    """
    if not plan.pieces:
        raise PlanError("there is no piece")
    widths = [layer.neurons for layer in graph.layers]
    for k, piece in enumerate(plan.pieces):
        if len(piece.neurons) != len(widths):
            raise PlanError(
                f"piece {k} has {len(piece.neurons)} layers, {graph.name} has {len(widths)}; plan again"
            )
        numbers = (piece.macs, piece.memory_bytes, piece.uplink_bytes)
        if not all(isfinite(number) and number >= 0 for number in numbers):
            raise PlanError(f"piece {k}: costs {numbers} must be finite and not negative")
    for layer, width in enumerate(widths):
        reached = 0
        for k, piece in enumerate(plan.pieces):
            start, stop = piece.neurons[layer]
            if start != reached or stop < start:
                raise PlanError(
                    f"piece {k}, layer {layer}: neurons {start} to {stop} do not follow on {reached}"
                )
            reached = stop
        if reached != width:
            raise PlanError(
                f"layer {layer}: pieces own {reached} neurons, {graph.name} has {width}; plan again"
            )
    for layer in (0, len(widths) - 1):
        if plan.pieces[0].neurons[layer] != (0, widths[layer]):
            raise PlanError(f"layer {layer} is not wholly the dominator's, as input and output layer must be")
    if plan.order and [sorted(order) for order in plan.order] != [list(range(width)) for width in widths]:
        raise PlanError("order is not a permutation of every layer's neurons")
    if plan.micro_batch < 0:
        raise PlanError(f"micro_batch is {plan.micro_batch}; it must be 0 (not planned) or more")
    if plan.staleness not in (0, 1):
        raise PlanError(f"staleness is {plan.staleness}; it must be 0 or 1")
    _check_groups(plan)


def _check_groups(plan: Plan) -> None:
    kinds = {kind.name for kind in plan.fleet.classes} if plan.fleet is not None else set[str]()
    for k, piece in enumerate(plan.pieces):
        if unknown := {*piece.classes} - kinds:
            raise PlanError(f"piece {k} fits classes {sorted(unknown)}, which its fleet does not have")
    names = [name for group in plan.groups for name in group.devices]
    if len({*names}) != len(names):
        twice = dict.fromkeys(name for k, name in enumerate(names) if name in names[:k])
        raise PlanError(f"device {', '.join(twice)} is named twice; every device is in one group")
    for number, group in enumerate(plan.groups):
        if len(group.devices) < len(plan.pieces):
            raise PlanError(
                f"group {number} has {len(group.devices)} devices for {len(plan.pieces)} pieces; plan again"
            )
        for turn in group.turns:
            distinct = {*turn.devices}
            if not len(turn.devices) == len(distinct) == len(plan.pieces) or not distinct <= {*group.devices}:
                raise PlanError(
                    f"a turn names devices {turn.devices}; one of the group for every piece is needed"
                )
