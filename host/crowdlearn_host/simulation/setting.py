"""The setting of a simulated run: what is trained, and on which devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.data.unit import check_units
from crowdlearn_device.privacy.labels import flipped
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.neuron_graph import FLOAT, NeuronGraph
from crowdlearn_export.graph.shape import as_modelled
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.losses.watched import watched_metrics
from numpy.typing import NDArray

from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.index_space import flat_layout, flatten, piece_of_weight, travelling, unused_in
from crowdlearn_host.methods.secure_sharing import check_release, least_contributors, rank_of
from crowdlearn_host.models.named import build_model
from crowdlearn_host.models.names import input_shape
from crowdlearn_host.models.trainable import Trainable, trainable
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.helpers import (
    PIECES,
    held_by_name,
    plan_for_helpers,
    triples_of,
    with_helper_layers,
)
from crowdlearn_host.planner.plan import Plan, load_plan
from crowdlearn_host.planner.problem.costs import frozen_bytes
from crowdlearn_host.planner.shares import shared_edges, shares_cost
from crowdlearn_host.privacy.dp.accountant import Schedule, own_epsilon
from crowdlearn_host.privacy.dp.ghost_norms import check_apart
from crowdlearn_host.simulation.learners.rounding import crossings
from crowdlearn_host.simulation.learners.workload import Workload
from crowdlearn_host.spec.augment import check_augment
from crowdlearn_host.spec.micro_batch import cheapest_rows
from crowdlearn_host.spec.privacy import check_label_epsilon
from crowdlearn_host.spec.simulation import AS_PHONES, SimulationConfig

from .modelled_traffic import errors_per_sample, masked_per_sample, sums_per_sample


@dataclass(frozen=True)
class Setting:
    """The setting of a run: the workload, and the plan of every group.

    `pieces` is the piece of each weight, and `travelling` the weights in the order in which they travel;
    `statistics` tells which weights are running statistics, `frozen` which stay as they are. `gradient_bytes`
    are what helpers open to each other, and are checked by, in a mini-batch on shares.
    """

    workload: Workload
    plan: Plan
    pieces: NDArray[np.int32]
    travelling: NDArray[np.int64]
    statistics: NDArray[np.bool_]
    frozen: NDArray[np.bool_]
    sums_per_sample: int
    errors_per_sample: int
    initial: Floats
    gradient_bytes: int = 0
    narrowed: float = 1.0
    """The bytes of what is frozen as devices hold it, in parts of those of float32."""
    least: int = 0
    """The groups of a secure sum that is released, at least."""
    masked_per_sample: int = 0
    """Floats of `sums_per_sample` that travel masked."""
    unclipped: frozenset[int] = frozenset()
    """Devices whose runtime lies: their groups add moves to secure sums as they are."""

    @property
    def config(self) -> SimulationConfig:
        return self.workload.config

    @property
    def rounds(self) -> int:
        """Return rounds until the end, or until the budget of privacy is spent."""
        if not self.config.privacy.private:
            return self.config.rounds
        return self.config.budget.affordable(self._samples) * self.config.rounds_an_epoch

    def epsilon(self, number: int) -> float | None:
        """Return the largest epsilon of a device after round `number`, counted from 0; None without noise."""
        if not self.config.privacy.private:
            return None
        return self.config.budget.total(self._samples, number // self.config.rounds_an_epoch + 1)

    def epsilons(self, number: int) -> dict[str, float]:
        """Return the epsilon after round `number` of devices by their number of samples; empty without
        noise.
        """
        if not self.config.privacy.private:
            return {}
        epochs = number // self.config.rounds_an_epoch + 1
        return {str(each): self.config.budget.spent(each, epochs) for each in sorted({*self._samples})}

    def group_epsilon(self, number: int) -> float | None:
        """Return the epsilon of everything that a group did until round `number`; None without noise in the
        sums.
        """
        noise = self.config.sharing.noise
        if noise is None or not self.config.sharing.enabled:
            return None
        return own_epsilon(Schedule(noise, 1.0, number + 1), self.config.privacy.delta)

    @property
    def _samples(self) -> list[int]:
        return [len(each) for each in self.workload.devices]


@dataclass(frozen=True)
class _Passes:
    """The passes of a mini-batch, as far as they differ on shares.

    `sums` and `errors` are floats a sample, `gradients` bytes a mini-batch that helpers open. `shared` are
    the edges on shares by module, and `held` the neurons of each triple, of what enters a module.
    """

    sums: int
    errors: int
    gradients: int = 0
    shared: Mapping[str, int] = field(default_factory=dict)
    held: Mapping[str, Sequence[int]] = field(default_factory=dict)


def prepare(
    config: SimulationConfig,
    train: Dataset,
    test: Dataset,
    devices: Sequence[NDArray[np.int64]],
) -> Setting:
    """Return the run that `config` describes on this data; without a plan, the even one.

    Raises ConfigError if the model does not take the data, PlanError where the plan does not fit it.
    `devices` are int64 [n] each.
    """
    train, test = _shaped(config, train, test)
    network = _network(config, train)
    train, test = _with_targets(config, network, train, test)
    model = network.model
    least = _least_groups(config, rank_of(network.graph, model), devices)
    graph, plan = _divided(config, network.graph)
    if config.training.micro_batch == AS_PHONES:
        rows = cheapest_rows(graph, plan, config.training.batch)
        training = config.training.model_copy(update={"micro_batch": rows})
        config = config.model_copy(update={"training": training})
    passes = _passes(config, network.graph, graph, plan)

    state = model.state_dict()
    unused = unused_in(state, graph)
    layout = flat_layout(state, unused)
    trained = dict(model.named_parameters())

    def each(chosen: Callable[[str], bool]) -> NDArray[np.bool_]:
        return np.concatenate([np.full(entry.stop - entry.start, chosen(entry.name)) for entry in layout])

    learns = each(lambda name: name in trained and name not in graph.frozen)
    way, holder = travelling(layout, graph, plan), piece_of_weight(layout, graph, plan)
    learning = [way[(holder == piece)[way] & learns[way]] for piece in range(len(plan.pieces))]

    setting = Setting(
        Workload(
            config,
            train.inputs,
            train.labels,
            tuple(devices),
            test,
            () if passes.held else crossings(graph, plan),
            graph.least_rows,
            graph.frozen,
            passes.shared,
            passes.held,
            integers=network.takes_codes,
            targets=network.targets,
            unused=unused,
            learning=tuple(learning),
        ),
        plan,
        holder,
        way,
        each(lambda name: name not in trained and name not in graph.frozen),
        each(lambda name: name in graph.frozen),
        passes.sums,
        passes.errors,
        flatten(state, unused),
        passes.gradients,
        _narrowed(network.graph),
        least,
        masked_per_sample(graph, plan) if config.privacy.masked_fraction else 0,
    )
    if not setting.rounds:
        raise ConfigError(config.budget.unaffordable)
    return setting


def _narrowed(graph: NeuronGraph) -> float:
    def total(graph: NeuronGraph) -> int:
        return sum(layer.neurons * frozen_bytes(graph, (layer.index,)) for layer in graph.layers)

    return total(graph) / max(1, total(as_modelled(graph)))


def _shaped(config: SimulationConfig, train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return both data sets in the shape that the model takes."""
    shape = input_shape(config.model, train.inputs.shape[1:])
    # Flat samples in between would hide that the two differ in layout.
    test.shaped(train.inputs.shape[1:], "the test data, unlike the training data")
    check_units(train, test, "the training data", "the test data")
    return train.shaped(shape, "the training data"), test.shaped(shape, "the test data")


def _network(config: SimulationConfig, train: Dataset) -> Trainable:
    """Return the model with its loss, sliced if groups have several pieces."""
    model = build_model(config.model, config.seed)
    loss = make_loss(config.training.loss.kind, **config.training.loss.options)
    pieces = 2 if config.plan else config.pieces or _members(config)
    example = torch.from_numpy(train.inputs[:2])
    watched = watched_metrics(config.device_metrics)
    network = trainable(model, loss, example, config.model, pieces=pieces, watched=watched)
    network = replace(network, graph=hold_frozen(network.graph, model, config.training.frozen))
    check_augment(config.training.augment, train.inputs.shape[1:], integers=network.takes_codes)
    if config.privacy.private:
        check_apart(model)
    check_label_epsilon(config.privacy.label_epsilon, network.targets)
    return network


def _with_targets(
    config: SimulationConfig, network: Trainable, train: Dataset, test: Dataset
) -> tuple[Dataset, Dataset]:
    """Return both data sets with targets as the loss takes them; labels that are to be private are changed at
    random.
    """
    train = network.with_targets(train, "the training data")
    test = network.with_targets(test, "the test data")
    if config.privacy.label_epsilon is not None:
        rng = np.random.default_rng((config.seed, 24))
        changed = flipped(train.labels, network.outputs, config.privacy.label_epsilon, rng)
        train = Dataset(train.inputs, changed)
    return train, test


def _least_groups(config: SimulationConfig, rank: int, devices: Sequence[NDArray[np.int64]]) -> int:
    """Return the groups of a secure sum that is released, at least; 0 without secure sums."""
    if not (config.sharing.secure and config.sharing.enabled):
        return 0
    firsts = range(0, config.devices, config.group)
    fewest = min(sum(map(len, devices[first : first + config.group])) for first in firsts)
    check_release(rank, fewest, config.groups)
    return least_contributors(rank, fewest)


def _divided(config: SimulationConfig, graph: NeuronGraph) -> tuple[NeuronGraph, Plan]:
    """Return the graph that devices hold parts of, and the plan of the parts, as for phones: on shares,
    helpers' layers are in the graph.
    """
    members, on_shares = _members(config), config.privacy.sums == "shares"
    if on_shares:
        graph = with_helper_layers(graph, first_layer=config.privacy.first_layer == "shared")
    if config.plan:
        plan = load_plan(config.plan, graph)
    elif on_shares:
        plan = plan_for_helpers(graph, config.training.batch, triples_of(config.pieces or PIECES))
    else:
        plan = balanced(graph, config.pieces or members)
    if len(plan.pieces) > members:
        raise ConfigError(f"the plan has {len(plan.pieces)} pieces for groups of {members}; plan again")
    return graph, plan


def _passes(config: SimulationConfig, whole: NeuronGraph, graph: NeuronGraph, plan: Plan) -> _Passes:
    """Return the passes of the `whole` network; devices hold parts of `graph`."""
    if config.privacy.sums != "shares":
        return _Passes(sums_per_sample(graph, plan), errors_per_sample(graph, plan))
    first_layer, held = config.privacy.first_layer == "shared", held_by_name(plan, graph)
    cost = shares_cost(whole, first_layer=first_layer, private=config.privacy.private, held=held)
    room = config.privacy.rows_on_shares(config.training.batch) / config.training.batch
    sums, errors = (round(each * room) // FLOAT for each in (cost.activation, cost.error))
    shared = {}
    if not config.privacy.private:  # else in floats: what a sample gives may not depend on others
        edges = shared_edges(whole, first_layer=first_layer)
        shared = {whole.edges[number].module: number for number in edges}
    return _Passes(sums, errors, cost.gradient + cost.checks, shared, held)


def _members(config: SimulationConfig) -> int:
    return config.strategy.members(config.group)
