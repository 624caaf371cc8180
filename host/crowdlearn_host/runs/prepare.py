"""Everything of a run that is known before its first device is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from crowdlearn_device.data.dataset import Dataset, as_targets
from crowdlearn_device.data.unit import check_units
from crowdlearn_device.privacy.masked import WORD_BYTES
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_device.sharing.update_values import ValueType
from crowdlearn_export.doctor.verdict import notes, trainable_graph
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.losses.watched import watched_metrics
from crowdlearn_export.program.footprint import footprint
from crowdlearn_export.program.inference import export_inference
from crowdlearn_export.program.slice_program import SliceProgram, export_slices
from torch import nn

from crowdlearn_host.common.home import cache_home
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.settings import Cut, Settings
from crowdlearn_host.coordinator.hub.server import OnEvent
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.coordinator.sums.lot import Lot
from crowdlearn_host.coordinator.sums.rounds import SecureRounds, Terms
from crowdlearn_host.errors import ConfigError, FleetError, PlanError
from crowdlearn_host.methods.round_schedule import renews
from crowdlearn_host.methods.secure_sharing import check_release, check_secure, rank_of
from crowdlearn_host.methods.slicenet.audit import UploadAudit
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.afford import with_classes
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.helpers import convolutions_told, plan_for_helpers, with_helper_layers
from crowdlearn_host.planner.messages import check_messages
from crowdlearn_host.planner.plan import PiecePlan, Plan, load_plan
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.privacy.dp.ghost_norms import check_model
from crowdlearn_host.spec.augment import check_augment
from crowdlearn_host.spec.micro_batch import rows_of
from crowdlearn_host.spec.provenance import RunInput, check_inputs, run_inputs
from crowdlearn_host.spec.run_spec import RunSpec

from .affordable import check_affordable, memory_of, unlike_planned
from .data import deal, load_split, sample_shape, shares_of, to_npz, validated
from .results.metrics import check_metric
from .results.own_metrics import check_own

WIRE = {"float32": pb.FLOAT32, "float16": pb.FLOAT16, "int8": pb.INT8}


@dataclass(frozen=True)
class Checked:
    """A run whose parts fit each other, before anything is exported. `micro_batch` is in samples; `fallbacks`
    have fewer pieces than `plan`; `given` is what was read, by name.
    """

    config: RunSpec
    model: nn.Module
    graph: NeuronGraph
    loss: Loss
    plan: Plan
    fallbacks: tuple[Plan, ...]
    micro_batch: int
    sample: tuple[int, ...]
    test: Dataset | None
    train: Dataset | None
    validation: Dataset | None
    given: dict[str, RunInput]


@dataclass(frozen=True)
class Prepared:
    """A run before its first device is touched. `programs` are the plan's, by piece; `whole` is the whole
    network's, where devices keep the model; `exported` are all that devices may need; `given` is what was
    read, by name. `micro_batch` is in samples.
    """

    config: RunSpec
    model: nn.Module
    graph: NeuronGraph
    loss: Loss
    plan: Plan
    micro_batch: int
    programs: tuple[SliceProgram, ...]
    fallbacks: tuple[Cut, ...]
    whole: SliceProgram | None
    exported: tuple[SliceProgram, ...]
    test: Dataset | None
    train: Dataset | None
    validation: Dataset | None
    given: dict[str, RunInput]


def prepare(config: RunSpec, on_event: OnEvent, run: Path | None = None) -> Prepared:
    """Do `check` and `export`: all of a run that is known before its first device is touched."""
    return export(check(config, run), on_event)


def check(config: RunSpec, run: Path | None = None, devices: int | None = None) -> Checked:
    """Read data, model and plan, of a new run or to go on with the one in the folder `run`. Check that they
    fit each other and `devices` devices. This takes seconds; nothing is exported.

    Raises ConfigError, ExportError or PlanError if something does not fit. Raises FleetError if the devices
    are too few, and RunError if the run began with other contents.
    """
    train = load_split(config.data, "train") if config.data and config.device_data is None else None
    test = load_split(config.data, "test") if config.data else None
    train, validation = validated(config.data or "", config.validation, train, config.training.seed)
    sample = sample_shape(config, test)
    read = run_inputs(config.model, config.group.plan, config.data, train, test, validation=validation)
    if train is not None and test is not None:
        # A model that takes flat samples would take splits of different layouts.
        train.shaped(test.inputs.shape[1:], f"training data of {config.data}, unlike its test data")
    for name, other in (("test", test), ("validation", validation)):
        if train is not None and other is not None:
            check_units(train, other, f"training data of {config.data}", f"its {name} data")
    train = train and train.shaped(sample, f"training data of {config.data}")
    test = test and test.shaped(sample, f"test data of {config.data}")
    validation = validation and validation.shaped(sample, f"validation data of {config.data}")
    model = build_model(config.model, config.training.seed)
    watched = watched_metrics(config.metrics.on_devices)
    loss = make_loss(config.training.loss.kind, **config.training.loss.options, watched=watched)
    one = 0 if config.group.plan else config.group.pieces
    graph = trainable_graph(model, torch.zeros(2, *sample), config.name, loss, pieces=one or 2)
    outputs = graph.scores[-1]
    targets = loss.targets(*graph.scores)
    if config.privacy.label_epsilon is not None and (not targets.are_classes or targets.shape):
        raise ConfigError(
            "privacy.label_epsilon changes classes, and a target here is not one class; leave it out"
        )
    train = train and _targeted(train, targets, outputs, f"training data of {config.data}")
    test = test and _targeted(test, targets, outputs, f"test data of {config.data}")
    validation = validation and _targeted(validation, targets, outputs, f"validation data of {config.data}")
    integers = graph.whole is not None and graph.whole.integers
    check_augment(config.training.augment, sample, integers=integers)
    check_own(config.metrics.own, targets, outputs)
    for metric in watched:
        metric.check(targets, graph.scores)
    if config.privacy.private:
        check_model(model)
    if config.validation is not None:
        check_metric(config.validation.metric, targets)
    section = config.group
    if config.privacy.sums == "shares":
        graph = with_helper_layers(graph, first_layer=config.privacy.first_layer == "shared")
        rows = config.privacy.rows_on_shares(config.training.batch)
        plan = replace(plan_for_helpers(graph, rows), shares=config.privacy.first_layer)
        if section.plan:
            planned = load_plan(section.plan, graph)
            if planned.shares != config.privacy.first_layer or planned.micro_batch != rows:
                raise PlanError(
                    f"{section.plan} is not for slices on shares in mini-batches of {config.training.batch} "
                    f"{'with noise ' if config.privacy.private else ''}and the first layer "
                    f"{config.privacy.first_layer}; plan again with --sums shares, --batch "
                    f"{config.training.batch}, --first-layer {config.privacy.first_layer}"
                    f"{' and --private' if config.privacy.private else ''}"
                )
            plan = replace(planned, pieces=_same_cut(planned, plan))
    else:
        plan = load_plan(section.plan, graph) if section.plan else balanced(graph, section.pieces)
    if devices is not None:
        sizes = group_sizes(config, plan, devices)
        dealt_out = _dealt(plan, len(train), devices - config.fleet.joining) if train is not None else []
        if config.budget is not None and dealt_out and not config.budget.affordable(dealt_out):
            raise ConfigError(config.budget.unaffordable)
        if config.sharing.secure:
            check_secure(len(sizes), config.sharing.omega, config.sharing.values)
            if len(dealt_out) == devices:
                edges = [0, *accumulate(sizes)]
                fewest = min(sum(dealt_out[a:b]) for a, b in pairwise(edges))
                check_release(rank_of(graph, model), fewest, len(sizes))
    if run is not None:
        check_inputs(run, read)
    fewer = range(section.min_pieces or len(plan.pieces), len(plan.pieces))
    fallbacks = tuple(
        with_classes(
            balanced(graph, pieces),
            plan,
            graph,
            lambda rows, regions: footprint(
                graph,
                rows,
                cache_home() / "footprints",
                regions=regions,
                optimizer=config.training.rule,
                memory=memory_of(config.training, plan),
                private=config.budget is not None,
            ),
        )
        for pieces in fewer
    )
    training = config.training
    micro = plan.micro_batch if config.privacy.sums == "shares" else rows_of(training, graph, plan)
    check_affordable(plan, config, micro)
    if micro < graph.least_rows:
        raise ConfigError(
            f"the plan has micro-batches of {micro} sample, of which batch norm has no variance; "
            f"plan again with --micro-batch {graph.least_rows} or more"
        )
    for each in (plan, *fallbacks):
        layout = [piece.neurons for piece in each.pieces]
        width = WORD_BYTES if config.privacy.masked_fraction else 0
        check_messages(graph, layout, micro + 1, max(width, wire_format(training.wire).dtype_bytes))
    return Checked(config, model, graph, loss, plan, fallbacks, micro, sample, test, train, validation, read)


def _same_cut(planned: Plan, due: Plan) -> tuple[PiecePlan, ...]:
    """Return the planned pieces. Raises PlanError if helpers would not have a third of each map."""
    if [piece.neurons for piece in planned.pieces] != [piece.neurons for piece in due.pieces]:
        raise PlanError("on shares each helper has a third of every map; plan again with --sums shares")
    return planned.pieces


def _targeted(data: Dataset, spec: TargetSpec, outputs: int, source: str) -> Dataset:
    return Dataset(data.inputs, as_targets(data.labels, spec, outputs, source))


def export(checked: Checked, on_event: OnEvent) -> Prepared:
    """Return the programs of a run that fits together. Raises ExportError."""
    config, graph, plan, fallbacks = checked.config, checked.graph, checked.plan, checked.fallbacks
    samples = torch.randn(32, *checked.sample, generator=torch.Generator().manual_seed(0))
    for note in notes(checked.model, samples, checked.loss):
        on_event("note", {"text": note})
    training = config.training
    if unlike := unlike_planned(plan, config, checked.micro_batch):
        on_event("note", {"text": unlike})
    if config.budget is not None:
        text = "privacy.epsilon and noise: devices report no loss of their samples, for nothing would hide it"
        on_event("note", {"text": text})
    optimizer = training.rule
    shapes = list(dict.fromkeys(piece.owned for each in (plan, *fallbacks) for piece in each.pieces))
    on_event("exporting", {"programs": len(shapes)})
    exports = export_slices(
        graph,
        shapes,
        optimizer,
        checked.loss,
        max_batch=checked.micro_batch + 1,  # a last sample may have to join the ones before
        measured=training.kernels == "measured",
        memory=memory_of(training, plan),
        private=config.budget is not None,
        cache=cache_home() / "programs",
        on_method=lambda done, of: on_event("compiled", {"done": done, "of": of}),
    )
    programs = dict(zip(shapes, exports, strict=True))

    def of_pieces(of: Plan) -> tuple[SliceProgram, ...]:
        return tuple(programs[piece.owned] for piece in of.pieces)

    cuts = tuple(
        Cut(
            tuple(piece.neurons for piece in each.pieces),
            tuple(p.manifest.sha256 for p in of_pieces(each)),
            _takers(plan, each),
        )
        for each in fallbacks
    )
    keeps = config.group.keep_model
    whole = export_inference(graph, cache_home() / "programs", checked.loss) if keeps else None
    exported = (*programs.values(), *((whole,) if whole else ()))
    return Prepared(
        config,
        checked.model,
        graph,
        checked.loss,
        plan,
        checked.micro_batch,
        of_pieces(plan),
        cuts,
        whole,
        exported,
        checked.test,
        checked.train,
        checked.validation,
        checked.given,
    )


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


def group_sizes(config: RunSpec, plan: Plan, devices: int) -> list[int]:
    """Return devices in each group, of `devices` in all.

    Raises FleetError if there are too few, or not as many as were planned for.
    """
    if plan.groups:
        if devices != len(plan.seats):
            raise FleetError(
                f"the plan is for {len(plan.seats)} devices, the fleet has {devices}; plan again for these, "
                "or name the plan's in fleet.phones"
            )
        return [len(group.devices) for group in plan.groups]
    count = config.group.groups
    size = devices // count
    if size < len(plan.pieces):
        raise FleetError(
            f"{count} groups of {len(plan.pieces)} pieces need {count * len(plan.pieces)} devices; "
            f"{devices} given"
        )
    return [size] * (count - 1) + [devices - size * (count - 1)]


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
        fallbacks=prepared.fallbacks,
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
        takers=_takers(plan, plan),
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
        maps=convolutions_told(prepared.graph),
        outgoing=prepared.config.metrics.mechanisms,
        augment=tuple(each.told for each in prepared.config.training.augment),
    )


def _takers(plan: Plan, cut: Plan) -> tuple[frozenset[int], ...]:
    """Return the planned devices that can afford each piece of a cut; () if the plan has none."""
    kinds, seats = plan.class_of, plan.seats
    if not kinds.keys() >= seats.keys() or not any(piece.classes for piece in cut.pieces):
        return ()
    return tuple(
        frozenset(number for name, number in seats.items() if kinds[name].name in piece.classes)
        for piece in cut.pieces
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
    sizes = _dealt(prepared.plan, len(prepared.train), devices)
    parts = deal(prepared.train, sizes, prepared.config.training.seed)
    return [{**programs, "data/train.npz": to_npz(part)} for part in parts]


def left_over(run: Checked | Prepared, devices: int) -> int:
    """Return how many samples no device is dealt, of a run whose samples are dealt out to so many devices."""
    if run.train is None or devices == 0:
        return 0
    return len(run.train) - sum(_dealt(run.plan, len(run.train), devices))


def _dealt(plan: Plan, samples: int, devices: int) -> list[int]:
    """Return how many of so many samples each device is dealt, in the order of the fleet."""
    kinds = [(name, plan.class_of.get(name)) for name in plan.seats][:devices]
    if not kinds or any(kind is None for _, kind in kinds):
        return shares_of(samples, [1] * devices)
    planned = [kind.samples for _, kind in kinds if kind is not None]
    return planned if sum(planned) <= samples else shares_of(samples, planned)
