"""A run whose parts fit each other: data, model, loss, plan and settings, before anything is exported."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.privacy.masked import WORD_BYTES
from crowdlearn_export.doctor.held_frozen import held_frozen
from crowdlearn_export.graph.memory_curves import Footprint
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.losses.watched import watched_metrics
from crowdlearn_export.program.footprint import footprint
from crowdlearn_export.stages.piece_stages import clipping_doubt
from crowdlearn_export.tracing.whole import as_samples
from torch import nn

from crowdlearn_host.common.home import cache_home
from crowdlearn_host.errors import ConfigError, PlanError
from crowdlearn_host.methods.secure_sharing import check_release, check_secure, rank_of
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.trainable import Trainable, trainable
from crowdlearn_host.planner.afford import with_classes
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.helpers import (
    held_by_triples,
    plan_for_helpers,
    triples_of,
    with_helper_layers,
)
from crowdlearn_host.planner.messages import check_messages
from crowdlearn_host.planner.plan import Plan, load_plan
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.privacy.dp.ghost_norms import check_apart
from crowdlearn_host.runs.data import Splits, splits_of
from crowdlearn_host.runs.dealing import group_sizes, samples_of_devices
from crowdlearn_host.runs.results.metrics import check_metric
from crowdlearn_host.runs.results.own_metrics import check_own
from crowdlearn_host.spec.augment import check_augment
from crowdlearn_host.spec.micro_batch import rows_of
from crowdlearn_host.spec.privacy import check_label_epsilon
from crowdlearn_host.spec.provenance import RunInput, check_inputs
from crowdlearn_host.spec.run_spec import RunSpec

from .affordable import check_affordable, memory_of

SOME = 128
"""The samples by which the rounding of frozen weights is measured."""


@dataclass(frozen=True)
class Checked:
    """A run whose parts fit each other. `micro_batch` is in samples; `fallbacks` have fewer pieces than
    `plan`; `sample` is the shape of one; `given` is what was read, by name. `rounding` is the cost
    of rounded frozen weights, in words, and `clipping` what DP-SGD clips one sample at a time; "" if none.
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
    rounding: str
    clipping: str


def check(config: RunSpec, run: Path | None = None, devices: int | None = None) -> Checked:
    """Read data, model and plan, of a new run or to go on with the one in the folder `run`. Check that they
    fit each other and `devices` devices. This takes seconds; nothing is exported.

    Raises ConfigError, ExportError or PlanError if something does not fit. Raises FleetError if the devices
    are too few, and RunError if the run began with other contents.
    """
    splits = splits_of(config)
    network = _network(config, splits.sample)
    _check_settings(config, network, splits.sample)
    graph, rounding = held_frozen(
        network.graph, network.model, config.training.frozen, _some(splits, network)
    )
    network = replace(network, graph=graph)
    splits = splits.mapped(network.with_targets)
    graph, plan = _divided(config, network.graph)
    if devices is not None:
        _check_crowd(config, plan, rank_of(graph, network.model), splits.train, devices)
    if run is not None:
        check_inputs(run, splits.given)
    fallbacks = _fallbacks(config, graph, plan)
    rows = _micro_batch(config, graph, plan)
    _check_messages(config, graph, [plan, *fallbacks], rows)
    return Checked(
        config,
        network.model,
        graph,
        network.loss,
        plan,
        fallbacks,
        rows,
        splits.sample,
        splits.test,
        splits.train,
        splits.validation,
        splits.given,
        str(rounding or ""),
        clipping_doubt(graph) if config.privacy.private and config.privacy.sums != "shares" else "",
    )


def _network(config: RunSpec, sample: tuple[int, ...]) -> Trainable:
    """Return the model with its loss, sliced if the run has several pieces."""
    model = build_model(config.model, config.training.seed)
    watched = watched_metrics(config.metrics.on_devices)
    loss = make_loss(config.training.loss.kind, **config.training.loss.options, watched=watched)
    pieces = 2 if config.group.plan else config.group.pieces
    return trainable(model, loss, torch.zeros(2, *sample), config.name, pieces=pieces, watched=watched)


def _some(splits: Splits, network: Trainable) -> torch.Tensor:
    """Return some samples as the model takes them, [B, *sample]: random ones if there are none here."""
    data = splits.train or splits.test
    if data is not None:
        return torch.from_numpy(data.inputs[:SOME])
    drawn = torch.randn(SOME, *splits.sample, generator=torch.Generator().manual_seed(0))
    return as_samples(drawn, torch.int64 if network.takes_codes else torch.float32)


def _check_settings(config: RunSpec, network: Trainable, sample: tuple[int, ...]) -> None:
    """Raise ConfigError if a setting does not go with the model, its loss, or samples of this shape."""
    targets = network.targets
    if config.training.frozen != "float32" and config.privacy.sums == "shares":
        raise ConfigError(
            "training.frozen is for weights that no helper on shares computes with; leave it out"
        )
    check_label_epsilon(config.privacy.label_epsilon, targets)
    check_augment(config.training.augment, sample, integers=network.takes_codes)
    check_own(config.metrics.own, targets, network.outputs)
    if config.privacy.private:
        check_apart(network.model)
    if config.validation is not None:
        check_metric(config.validation.metric, targets)


def _divided(config: RunSpec, graph: NeuronGraph) -> tuple[NeuronGraph, Plan]:
    """Return the graph that devices hold parts of, and the plan of the parts: the given one, or the even
    one. On shares, helpers' layers are in the graph.
    """
    path = config.group.plan
    if config.privacy.sums != "shares":
        return graph, load_plan(path, graph) if path else balanced(graph, config.group.pieces)
    first_layer = config.privacy.first_layer
    graph = with_helper_layers(graph, first_layer=first_layer == "shared")
    rows = config.privacy.rows_on_shares(config.training.batch)
    if not path:
        even = plan_for_helpers(graph, rows, triples_of(config.group.pieces))
        return graph, replace(even, shares=first_layer)
    planned = load_plan(path, graph)
    if planned.shares != first_layer or planned.micro_batch != rows:
        raise PlanError(
            f"{path} is not for slices on shares in mini-batches of {config.training.batch} "
            f"{'with noise ' if config.privacy.private else ''}and the first layer {first_layer}; plan again "
            f"with --sums shares, --batch {config.training.batch}, --first-layer {first_layer}"
            f"{' and --private' if config.privacy.private else ''}"
        )
    held_by_triples(planned, graph)  # raises PlanError unless it is one of triples
    return graph, planned


def _check_crowd(config: RunSpec, plan: Plan, rank: int, train: Dataset | None, devices: int) -> None:
    """Raise ConfigError if so many devices cannot train so, and FleetError if they are too few. `rank` is
    the model's.
    """
    sizes = group_sizes(config, plan, devices)
    dealt = samples_of_devices(plan, len(train), devices - config.fleet.joining) if train is not None else []
    if config.budget is not None and dealt and not config.budget.affordable(dealt):
        raise ConfigError(config.budget.unaffordable)
    if not config.sharing.secure:
        return
    check_secure(len(sizes), config.sharing.omega, config.sharing.values)
    if len(dealt) == devices:
        edges = [0, *accumulate(sizes)]
        check_release(rank, min(sum(dealt[a:b]) for a, b in pairwise(edges)), len(sizes))


def _fallbacks(config: RunSpec, graph: NeuronGraph, plan: Plan) -> tuple[Plan, ...]:
    """Return the plans of fewer pieces that a group may fall back to, the one with the fewest first."""
    training = config.training
    memory = memory_of(training, plan)

    def footprint_of(rows: int, regions: Collection[int]) -> Footprint:
        return footprint(
            graph,
            rows,
            cache_home() / "footprints",
            regions=regions,
            optimizer=training.rule,
            memory=memory,
            private=config.budget is not None,
        )

    fewer = range(config.group.min_pieces or len(plan.pieces), len(plan.pieces))
    return tuple(with_classes(balanced(graph, pieces), plan, graph, footprint_of) for pieces in fewer)


def _micro_batch(config: RunSpec, graph: NeuronGraph, plan: Plan) -> int:
    """Return the samples of a micro-batch. Raises ConfigError if devices cannot afford them, or if they are
    too few.
    """
    rows = plan.micro_batch if config.privacy.sums == "shares" else rows_of(config.training, graph, plan)
    check_affordable(plan, config, rows)
    if rows < graph.least_rows:
        raise ConfigError(
            f"the plan has micro-batches of {rows} sample, of which batch norm has no variance; "
            f"plan again with --micro-batch {graph.least_rows} or more"
        )
    return rows


def _check_messages(config: RunSpec, graph: NeuronGraph, plans: Sequence[Plan], rows: int) -> None:
    """Raise PlanError if sums of a micro-batch of `rows` samples would not fit a message."""
    masked = WORD_BYTES if config.privacy.masked_fraction else 0
    width = max(masked, wire_format(config.training.wire).dtype_bytes)
    for plan in plans:
        check_messages(graph, [piece.neurons for piece in plan.pieces], rows + 1, width)
