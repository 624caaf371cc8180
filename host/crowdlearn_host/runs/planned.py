"""A plan for the network of a run and a fleet, without a terminal."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from crowdlearn_device.optimizers.registry import Kind, typical
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.memory_curves import USUAL, Footprint, MemoryUse
from crowdlearn_export.graph.neuron_graph import FrozenAs, NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.program.footprint import footprint
from torch import nn

from crowdlearn_host.common.home import cache_home
from crowdlearn_host.errors import ConfigError, InfeasiblePlan
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import check_name
from crowdlearn_host.planner.initial_weights import initial_weights
from crowdlearn_host.planner.micro_batch import plan_with_micro_batch, sample_seconds
from crowdlearn_host.planner.plan import Plan
from crowdlearn_host.planner.planner import Planned
from crowdlearn_host.planner.problem.bundles import bundles
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.leaks import LeakCurve, Leaks
from crowdlearn_host.planner.problem.rotations import DEFAULT_ROTATION, Rotation
from crowdlearn_host.planner.problem.state_bytes import value_bytes
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.planner.triples.planned import plan_on_shares
from crowdlearn_host.privacy.leaks.measured import MOST_SOURCES, Way, label_parts, leak_curves
from crowdlearn_host.runs.checks.augmenting import augment_cost
from crowdlearn_host.runs.data import load_split, sample_shape
from crowdlearn_host.spec.augment import AugmentSection, check_augment
from crowdlearn_host.spec.loss import CROSS_ENTROPY, LossSection
from crowdlearn_host.spec.micro_batch import rows_for
from crowdlearn_host.spec.run_spec import RunSpec, SharingSection, TrainingSection, micro_rows

TRAINING, SHARING = TrainingSection.model_validate({}), SharingSection.model_validate({})
"""The training and the sharing of a run whose description says nothing about them."""

ROUGHLY = 0.25
"""The share of the time for a plan in which a first one shows how many messages there are."""

OnStep = Callable[[str, int, int], None]
"""Takes what begins now, its number and how many such steps there are; 0 of 0 if that is not known."""

Number = Literal["float32", "float16", "int8"]


@dataclass(frozen=True)
class PlanRequest:
    """A network and all of its training that a plan depends on, as a run without a description has it.

    `shape` is that of one sample, `micro_batch` 0 for what training takes. `omega` uploads stand in the
    host's window, 0 for as many as there are groups. With `max_leak` no follower re-identifies a larger part
    of samples like those in `data` by the sums, in the form `sums`, that it gets; with `max_label_leak` none
    reads a larger part of their labels. With `augment` dominators change samples before they enter.
    """

    model: str
    shape: tuple[int, ...]
    loss: LossSection = CROSS_ENTROPY
    batch: int = TRAINING.batch
    micro_batch: int = 0
    in_flight: int = TRAINING.in_flight
    staleness: int = TRAINING.staleness
    momentum: bool = TRAINING.momentum > 0
    optimizer: Kind = TRAINING.optimizer
    wire: Number = TRAINING.wire
    rotation: Rotation = DEFAULT_ROTATION
    theta: float = SHARING.theta
    values: Number = SHARING.values
    omega: int = SHARING.omega
    snapshot_every: int = TRAINING.snapshot_every
    seed: int = TRAINING.seed
    max_leak: float | None = None
    max_label_leak: float | None = None
    data: str | None = None
    sums: Literal["plain", "masked", "shares"] = "plain"
    first_layer: Literal["kept", "shared"] = "kept"
    private: bool = False
    learning_rate: float = TRAINING.learning_rate
    momentum_rate: float = TRAINING.momentum
    memory: MemoryUse | None = TRAINING.memory
    augment: tuple[AugmentSection, ...] = ()
    frozen: FrozenAs = TRAINING.frozen

    @property
    def capped(self) -> str:
        """Return the name of a cap on what followers learn, if one is set."""
        if self.max_leak is not None:
            return "max_leak"
        return "max_label_leak" if self.max_label_leak is not None else ""

    @classmethod
    def of(cls, spec: RunSpec) -> Self:
        """Return the planning that a run's description implies. Raises ConfigError if its data cannot be
        read.
        """
        check_name(spec.model)
        training, sharing = spec.training, spec.sharing
        return cls(
            model=spec.model,
            shape=sample_shape(spec, load_split(spec.data, "test") if spec.data else None),
            loss=training.loss,
            batch=training.batch,
            micro_batch=training.micro_batch or 0,
            in_flight=training.in_flight,
            staleness=training.staleness,
            momentum=training.momentum > 0,
            optimizer=training.optimizer,
            wire=training.wire,
            rotation=spec.group.rotation or DEFAULT_ROTATION,
            theta=sharing.theta,
            values=sharing.values,
            omega=sharing.omega,
            snapshot_every=training.snapshot_every,
            seed=training.seed,
            max_leak=spec.privacy.max_leak,
            max_label_leak=spec.privacy.max_label_leak,
            data=spec.data,
            sums=spec.privacy.sums,
            first_layer=spec.privacy.first_layer,
            private=spec.privacy.private,
            learning_rate=training.learning_rate,
            momentum_rate=training.momentum,
            memory=training.memory,
            augment=training.augment,
            frozen=training.frozen,
        )


@dataclass(frozen=True)
class NetworkPlan:
    """A plan, the graph that it divides, the training that was asked for, and what else was found: baselines,
    and whether memory counts what programs need to run.
    """

    found: Planned
    graph: NeuronGraph
    training: Training
    whole_memory: bool

    @property
    def plan(self) -> Plan:
        """Return the plan."""
        return self.found.plan


def plan_network(
    request: PlanRequest,
    fleet: Fleet,
    *,
    group_size: int | None = None,
    seconds: float = 60.0,
    baselines: bool = False,
    on_step: OnStep | None = None,
) -> NetworkPlan:
    """Divide the network among the devices of `fleet`, searching for at most so many processor seconds.
    Compare with METIS and a hypergraph partitioner if `baselines` are wanted.

    Raises UnsupportedModule if the network cannot be sliced, InfeasiblePlan if no plan meets every budget.
    Raises ConfigError if samples cannot be changed as `request` says.
    Raises ConfigError if leaks are capped and there is no data to measure them by. Raises it, too, if groups
    are to be larger than the fleet.
    """
    check_name(request.model)
    if group_size is not None and group_size > fleet.size:
        raise ConfigError(
            f"groups of {group_size} devices, and the fleet has {fleet.size}: ask for smaller ones, or let "
            "the planner decide"
        )
    tell = on_step or (lambda what, number, of: None)
    check_augment(request.augment, request.shape, integers=False)
    network = build_model(request.model, request.seed)
    loss = make_loss(request.loss.kind, **request.loss.options)
    graph = trainable_graph(network, torch.zeros(2, *request.shape), request.model, loss)
    graph = hold_frozen(graph, network, request.frozen)
    numbers = wire_format(request.wire)
    usual = micro_rows(request.batch, sample_seconds(graph, fleet, numbers))
    training = Training(
        batch=request.batch,
        micro_batch=min(request.micro_batch or usual, request.batch),
        in_flight=request.in_flight,
        momentum=request.momentum,
        optimizer=request.optimizer,
        rotation=request.rotation,
        theta=request.theta,
        wire=numbers,
        staleness=request.staleness,
        snapshot_every=request.snapshot_every,
        value_bytes=value_bytes(request.values, initial_weights(graph, network)),
        sums=request.sums,
        private=request.private and request.sums == "shares",
        memory=request.memory or USUAL,
        fed_bytes=augment_cost(request.augment, request.shape, request.batch).bytes,
        frozen=request.frozen,
    )
    if request.sums == "shares":
        if request.capped:
            raise ConfigError(
                f"{request.capped} is for sums in plain or masked form; one helper on shares re-identifies "
                "none and reads no labels: leave it out"
            )
        tell(f"searching for the triples, for at most {seconds:.0f} processor seconds", 0, 0)
        return _on_shares(request, graph, fleet, training, group_size, seconds)
    if request.capped:
        members = group_size or fleet.size
        training = replace(training, leaks=_leaks(request, network, graph, loss, members, tell))
    capped = any(kind.max_memory for kind in fleet.classes)
    optimizer = typical(request.optimizer, momentum=request.momentum)

    def footprint_of(rows: int, regions: Collection[int]) -> Footprint | None:
        known = None
        if capped:
            what = f"compiling layers for micro-batches of {rows}, to learn what memory they need"
            known = footprint(
                graph,
                rows,
                cache_home() / "footprints",
                regions=regions,
                on_layer=lambda number, of: tell(what, number, of),
                optimizer=optimizer,
                memory=training.memory,
                private=request.private,
            )
        tell(f"searching for the plan, for at most {seconds:.0f} processor seconds", 0, 0)
        return known

    if not request.micro_batch and all(kind.message_seconds for kind in fleet.classes):
        roughly = seconds * ROUGHLY
        tell(f"searching for a first plan, for at most {roughly:.0f} processor seconds", 0, 0)
        with suppress(InfeasiblePlan):  # the search below says why
            rough = plan_with_micro_batch(  # whose messages are known, and memory is not looked at yet
                graph,
                fleet,
                training,
                lambda rows, regions: None,
                group_size=group_size,
                seconds=roughly,
                compare=False,
            )
            rows = rows_for(graph, rough.plan, fleet, request.batch, sample_seconds(graph, fleet, numbers))
            training = replace(training, micro_batch=max(training.micro_batch, rows))
    found = plan_with_micro_batch(
        graph, fleet, training, footprint_of, group_size=group_size, seconds=seconds, compare=baselines
    )
    return NetworkPlan(found, graph, training, capped)


def _on_shares(
    request: PlanRequest,
    graph: NeuronGraph,
    fleet: Fleet,
    training: Training,
    group_size: int | None,
    seconds: float,
) -> NetworkPlan:
    plan, helped = plan_on_shares(
        graph, fleet, training, first_layer=request.first_layer, group_size=group_size, seconds=seconds
    )
    return NetworkPlan(Planned(plan, ()), helped, training, whole_memory=True)


def _leaks(
    request: PlanRequest, network: nn.Module, graph: NeuronGraph, loss: Loss, members: int, tell: OnStep
) -> Leaks:
    """Return what is measured, or was, of followers in groups of so many members."""
    if request.data is None:
        raise ConfigError(f"{request.capped} is a cap on what is measured with samples; give data, too")
    data = load_split(request.data, "train").shaped(request.shape, f"training data of {request.data}")
    way = Way(
        request.batch,
        request.learning_rate,
        request.momentum_rate,
        "masked" if request.sums == "masked" else "plain",
        max(1, min(members - 1, MOST_SOURCES)),
    )
    cache, labels = cache_home() / "leaks", tuple[float, ...]()
    curves = (LeakCurve(),) * len(bundles(graph))
    if request.max_leak is not None:
        what = "measuring what followers re-identify"
        curves = leak_curves(
            network, graph, loss, data, way, cache, lambda number, of: tell(what, number, of)
        )
    if request.max_label_leak is not None:
        tell("measuring which labels followers read", 0, 0)
        labels = label_parts(network, graph, loss, data, way, cache)
    limit, label_limit = (1.0 if cap is None else cap for cap in (request.max_leak, request.max_label_leak))
    return Leaks(curves, limit, way.sums, labels, label_limit)
