"""The groups of a run: their settings, what they share by, and what is pushed to their devices."""

from __future__ import annotations

from collections.abc import Sequence

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of

from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.sums.lot import Lot
from crowdlearn_host.coordinator.sums.rounds import SecureRounds, Terms
from crowdlearn_host.methods.round_schedule import renews
from crowdlearn_host.methods.secure_sharing import rank_of
from crowdlearn_host.methods.slicenet.audit import UploadAudit
from crowdlearn_host.planner.helpers import convolution_messages
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION

from .data import deal, to_npz
from .dealing import group_sizes, samples_of_devices, takers_of
from .prepare import Prepared

WIRE = {"float32": pb.FLOAT32, "float16": pb.FLOAT16, "int8": pb.INT8}


def groups_of(prepared: Prepared, devices: int) -> list[Settings]:
    """Return the settings of every group, for `devices` devices numbered in their order.

    Raises FleetError if there are too few, or not as many as were planned for.
    """
    plan = prepared.plan
    sizes = group_sizes(prepared.config, plan, devices)
    seats = plan.seats
    turns: list[tuple[tuple[int, ...], ...]] = [
        tuple(tuple(seats[name] for name in turn.devices) for turn in group.turns) for group in plan.groups
    ] or [()] * len(sizes)
    return [
        _settings(prepared, members, own, groups=len(sizes))
        for members, own in zip(sizes, turns, strict=True)
    ]


def _settings(
    prepared: Prepared, devices: int, turns: tuple[tuple[int, ...], ...], *, groups: int
) -> Settings:
    training, sharing = prepared.config.training, prepared.config.sharing
    plan = prepared.plan
    planned = plan.rotation if plan.groups else DEFAULT_ROTATION
    kinds = {plan.seats[name]: kind for name, kind in plan.class_of.items() if name in plan.seats}
    return Settings(
        layout=tuple(piece.neurons for piece in prepared.plan.pieces),
        programs=tuple(program.manifest.sha256 for program in prepared.programs),
        epochs=training.epochs,
        batch=training.batch,
        micro_batch=prepared.micro_batch,
        in_flight=training.in_flight,
        learning_rate=training.learning_rate,
        seed=training.seed,
        snapshot_every=training.snapshot_every,
        staleness=training.staleness,
        least_rows=prepared.graph.least_rows,
        wire_type=WIRE[training.wire] if prepared.config.budget is None else pb.FLOAT32,
        rotation=prepared.config.group.rotation or planned,
        devices=devices,
        grace_seconds=training.grace_seconds,
        fallbacks=prepared.cuts,
        turns=turns,
        fall=training.schedule,
        step_epochs=training.step_epochs,
        step_factor=training.step_factor,
        warmup=training.warmup,
        every=sharing.every,
        theta=sharing.theta,
        shared_type=WIRE[sharing.values],
        alone=groups == 1,
        secure=sharing.secure,
        renews=renews(sharing.theta, sharing.tau, training.has_slots, groups),
        whole_program=prepared.whole.manifest.sha256 if prepared.whole else "",
        chooses=prepared.config.validation is not None,
        takers=takers_of(plan, plan),
        without_samples=frozenset(number for number, kind in kinds.items() if not kind.samples),
        most_samples={number: kind.samples for number, kind in kinds.items() if kind.max_memory},
        secret_order=prepared.config.secret_order,
        label_epsilon=prepared.config.privacy.label_epsilon or 0.0,
        budget=prepared.config.budget,
        clip=prepared.config.privacy.clip,
        weigh_charge=prepared.config.group.weigh_charge,
        heirs=prepared.config.privacy.heirs,
        heirs_needed=prepared.config.privacy.heirs_needed,
        owners=prepared.config.privacy.owners,
        sticky=prepared.config.privacy.sticky,
        owned={number: kind.owner for number, kind in kinds.items() if kind.owner},
        shares=prepared.config.privacy.sums == "shares",
        masked=prepared.config.privacy.masked_fraction,
        maps=convolution_messages(prepared.graph),
        outgoing=prepared.config.metrics.mechanisms,
        augment=tuple(each.message for each in prepared.config.training.augment),
    )


def shared_model_of(prepared: Prepared, groups: int, audit: UploadAudit | None = None) -> SharedModel:
    """Return the global model before the first epoch."""
    sharing = prepared.config.sharing
    initial = arrays_of(prepared.graph, prepared.model.state_dict(), prepared.plan.order)
    return SharedModel(
        array_specs(prepared.graph),
        initial,
        omega=(sharing.omega or groups) // (groups if sharing.secure else 1),
        tau=sharing.tau,
        values=ValueType[sharing.values.upper()],
        combine=sharing.combine,
        audit=audit,
    )


def sums_of(prepared: Prepared, run: str, groups: Sequence[Group]) -> SecureRounds | None:
    """Return the secure sums by which groups share; None if they share in the clear. `run` is NAME/ID."""
    config, graph = prepared.config, prepared.graph
    if not config.sharing.secure:
        return None
    arrays, theta = array_specs(graph), config.sharing.theta
    neurons = tuple((0, layer.neurons) for layer in graph.layers)
    rank = rank_of(graph, prepared.model)

    def lot(number: int) -> Lot:
        return Lot(arrays, neurons, config.training.seed, number, theta)

    terms = Terms(
        run,
        theta,
        rank,
        lot,
        config.sharing.noise or 0.0,
        config.sharing.clip,
        config.privacy.delta,
        config.sharing.norm_bound or 0.0,
        None if config.sharing.synchronous else config.sharing.wait,
    )
    return SecureRounds(terms, groups, config.training.grace_seconds)


def device_files(prepared: Prepared, devices: int) -> list[dict[str, bytes]]:
    """Return the files that are pushed to each device, in the order of the fleet: every program (roles
    rotate), and its samples if they are dealt out: as many as are planned, if there are so many, or its share
    of them.

    Raises ConfigError if there are too few samples, or more than a device's memory is planned for.
    """
    programs = {f"programs/{n}": c for program in prepared.exported for n, c in program.files().items()}
    if prepared.train is None or devices == 0:
        return [programs] * devices
    sizes = samples_of_devices(prepared.plan, len(prepared.train), devices)
    parts = deal(prepared.train, sizes, prepared.config.training.seed)
    return [{**programs, "data/train.npz": to_npz(part)} for part in parts]
