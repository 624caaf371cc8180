"""The simulated run: rounds of groups that train side by side, then share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from crowdlearn_device.dataset import Dataset
from crowdlearn_device.schedule import dominator_order
from crowdlearn_device.update import (
    Limits,
    Update,
    ValueType,
    decode_update,
    encode_update,
    select_top,
)
from crowdlearn_export.graph import FLOAT
from crowdlearn_export.trace import neuron_graph
from numpy.typing import NDArray

from ..errors import ConfigError, TrainingError
from ..models import build_model, input_shape
from ..planner.balanced import balanced
from ..planner.plan import Plan, load_plan
from ..sharing.flat import flat_layout, flatten, piece_of_weight, travelling
from ..sharing.round import SharingRound
from ..sharing.window import Window
from .config import SimulationConfig
from .group import Floats, GroupResult, Pass, Workload
from .tasks import CohortTask, EvaluationTask, GroupTask
from .traffic import shuffle_bytes, sums_per_sample
from .wire import BYTES, crossings
from .workers import Workers

COHORTS = 12
"""Into as many a round's devices are divided, each averaged by one worker before anything travels: few, and
the same work for 2, 3, 4, 6 or 12 workers. Not by the workers there are: sums would depend on them.
"""
EVALUATED = 2500
"""Test samples that one worker classifies at a time."""


@dataclass(frozen=True)
class RoundRecord:
    """One round: what is trained up to a sharing, an epoch unless sharing comes more often.

    `accuracy` is the global model's on the test data, or the groups' mean where nothing is shared (None
    before the last round where that takes many evaluations); `group_accuracy` is the groups' mean after the
    last round. `bytes` of activation, error and shuffle are modelled; those of sharing are encoded updates'.
    """

    round: int
    epoch: int
    samples: int
    loss: float
    accuracy: float | None
    group_accuracy: float | None
    seconds: float
    bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """All that a run needs to go on after a round."""

    weights: Floats
    momentum: Floats
    window: Window
    records: tuple[RoundRecord, ...] = ()


@dataclass(frozen=True)
class Setting:
    """What a run trains on whom: the workload, and the plan of every group.

    `pieces` is the piece of each weight, and `travelling` the weights in the order in which they travel;
    `statistics` tells which weights no gradient moves.
    """

    workload: Workload
    plan: Plan
    pieces: NDArray[np.int32]
    travelling: NDArray[np.int64]
    statistics: NDArray[np.bool_]
    sums_per_sample: int
    initial: Floats

    @property
    def config(self) -> SimulationConfig:
        return self.workload.config


def prepare(
    config: SimulationConfig,
    train: Dataset,
    test: Dataset,
    devices: Sequence[NDArray[np.int64]],
    plan_file: Path | None = None,
) -> Setting:
    """The run that `config` describes on this data; without a plan, the even one.

    Raises ConfigError where the model does not take the data, PlanError where the plan does not fit it.
    """
    shape = input_shape(config.model, train.inputs.shape[1:])
    train, test = train.shaped(shape), test.shaped(shape)
    model = build_model(config.model, config.seed)
    graph = neuron_graph(model, torch.from_numpy(train.inputs[:2]), config.model)
    classes = graph.layers[-1].neurons
    highest = int(max(train.labels.max(), test.labels.max()))
    if highest >= classes:
        raise ConfigError(f"model {config.model} tells {classes} classes apart, but a label is {highest}")
    state = model.state_dict()
    plan = load_plan(plan_file, graph) if plan_file else balanced(graph, _pieces(config))
    if len(plan.pieces) > _pieces(config):
        raise ConfigError(
            f"the plan has {len(plan.pieces)} pieces for groups of {_pieces(config)}; plan again"
        )
    layout = flat_layout(state)
    trained = dict(model.named_parameters())
    return Setting(
        Workload(config, train.inputs, train.labels, tuple(devices), test, crossings(graph, plan)),
        plan,
        piece_of_weight(layout, graph, plan),
        travelling(layout, graph, plan),
        np.concatenate([np.full(each.stop - each.start, each.name not in trained) for each in layout]),
        sums_per_sample(graph, plan),
        flatten(state),
    )


def _pieces(config: SimulationConfig) -> int:
    return config.group if config.method == "slicenet" else 1


def start(setting: Setting) -> RunState:
    """The state before the first round: every group, and the global model, has the initial weights."""
    config = setting.config
    weights = np.tile(setting.initial, (config.groups if config.method == "slicenet" else 1, 1))
    omega = config.omega if config.method == "slicenet" and config.sharing.enabled else 1
    momentum = np.zeros_like(weights) if config.training.momentum else np.zeros((len(weights), 0), np.float32)
    return RunState(weights, momentum, Window(setting.initial, omega))


def run(
    setting: Setting,
    workers: Workers,
    state: RunState | None = None,
    on_round: Callable[[RunState], None] = lambda state: None,
) -> RunState:
    """Trains to the last epoch, from `state` where one is given; `on_round` gets every round's state.

    The outcome depends on the setting only: not on the workers, nor on where the run was resumed. The state's
    window changes in place. Raises TrainingError where a group cannot train, or training diverges.
    """
    state = state or start(setting)
    config = setting.config
    after = _slicenet_round if config.method == "slicenet" else _fedavg_round
    for number in range(len(state.records), config.rounds):
        state = after(setting, workers, state, number)
        on_round(state)
    return state


def global_weights(setting: Setting, state: RunState) -> Floats:
    """The global model: the windowed average, or the mean of the groups where nothing is shared."""
    if setting.config.method == "slicenet" and setting.config.sharing.enabled:
        return state.window.average()
    return state.weights.mean(axis=0, dtype=np.float64).astype(np.float32)


def _slicenet_round(setting: Setting, workers: Workers, state: RunState, number: int) -> RunState:
    began = time.perf_counter()
    config = setting.config
    epoch, part = divmod(number, config.rounds_an_epoch)
    size, passes = config.group, config.passes_a_round
    orders = [
        dominator_order(range(g * size, (g + 1) * size), seed=config.seed, epoch=epoch)
        for g in range(config.groups)
    ]
    turns = [order[part * passes : (part + 1) * passes] for order in orders]
    results = workers.map(
        [
            GroupTask(
                tuple(Pass(d, epoch) for d in turn), weights, momentum, config.rate(number), _chosen(config)
            )
            for turn, weights, momentum in zip(turns, state.weights, state.momentum, strict=True)
        ]
    )
    for turn, result in zip(turns, results, strict=True):
        _check_finite(result, turn, number)
    weights = np.stack([result.weights for result in results])
    momentum = np.stack([result.momentum for result in results])
    samples = sum(result.samples for result in results)
    crossing = samples * setting.sums_per_sample * BYTES[config.training.wire]
    shuffles = len(turns[0]) - config.renews
    moved = shuffle_bytes(config, setting.pieces) * shuffles * config.groups
    spent = {"activation": crossing, "error": crossing, "shuffle": moved, "sharing": 0}
    if config.sharing.enabled:
        holders = [_holders(order, turn[-1]) for order, turn in zip(orders, turns, strict=True)]
        spent["sharing"] = _share(setting, state.window, holders, results, weights, number)
    state = RunState(weights, momentum, state.window, state.records)
    return _recorded(setting, workers, state, results, spent, number, time.perf_counter() - began)


def _holders(order: Sequence[int], dominator: int) -> list[int]:
    """The devices of pieces 0, 1, ...: the dominator, then the others in the order of their passes."""
    at = order.index(dominator)
    return [*order[at:], *order[:at]]


def _chosen(config: SimulationConfig) -> bool:
    """Whether |gradient| decides what is shared: not where nothing or everything is."""
    return config.sharing.enabled and 0 < config.sharing.theta < 1


def _share(
    setting: Setting,
    window: Window,
    holders: Sequence[Sequence[int]],
    results: Sequence[GroupResult],
    weights: NDArray[np.float32],
    number: int,
) -> int:
    """Uploads of every device, then every group's download into `weights`. Returns the bytes of both."""
    config = setting.config
    values = ValueType[config.sharing.values.upper()]
    places, pieces = setting.travelling, range(len(setting.plan.pieces))
    parts = [np.flatnonzero(setting.pieces[places] == piece) for piece in pieces]
    sent = 0
    for group, result in zip(holders, results, strict=True):
        owned = {device: setting.pieces == piece for piece, device in zip(pieces, group, strict=False)}
        sharing = SharingRound(window, number, owned, len(window))
        # Running statistics have no gradient, and a model without them cannot be evaluated: they go first.
        importance = np.where(setting.statistics, np.inf, result.accumulated if _chosen(config) else 0)
        for device, part in zip(group, parts, strict=False):
            chosen = part[select_top(importance[places[part]], config.sharing.theta)]
            try:
                update, size = _travelled(places, device, number, chosen, result.weights, values)
            except ValueError as error:
                raise _diverged(
                    number, f"device {device} holds weights beyond {values.name.lower()}"
                ) from error
            sharing.apply(update)
            sent += size
    due = np.zeros(len(window), np.bool_)
    due[window.download(config.sharing.tau)[0]] = True
    for part in parts:
        given = part[due[places[part]]]
        # What a group gets is rounded as its values travel, though the window's average is not.
        update, size = _travelled(places, 0, number, given, window.average(), values)
        weights[:, update.indices] = update.values
        sent += len(holders) * size
    return sent


def _check_finite(result: GroupResult, devices: Sequence[int], number: int) -> None:
    if not result.finite:
        told = ", ".join(map(str, devices))
        raise _diverged(number, f"weights or loss are not finite after the passes of devices {told}")


def _diverged(number: int, what: str) -> TrainingError:
    return TrainingError(f"round {number + 1}: {what}; training diverged, lower training.learning_rate")


def _travelled(
    places: NDArray[np.int64],
    owner: int,
    number: int,
    chosen: NDArray[np.int64],
    weights: Floats,
    values: ValueType,
) -> tuple[Update, int]:
    """An update of `chosen` weights, in the order in which they travel, as whoever takes it has it in ours:
    int8 is scaled by neighbours on the way. And its bytes.
    """
    sent = Update(owner, number, chosen.astype(np.uint32), weights[places[chosen]])
    data = encode_update(sent, values)
    taken = decode_update(data, Limits(len(places), len(places)))
    indices = places[taken.indices]
    order = np.argsort(indices)
    return Update(owner, number, indices[order].astype(np.uint32), taken.values[order]), len(data)


def _fedavg_round(setting: Setting, workers: Workers, state: RunState, number: int) -> RunState:
    began = time.perf_counter()
    config = setting.config
    count = max(1, round(config.fedavg.fraction * config.devices))
    drawn = np.random.default_rng((config.seed, number, 2)).permutation(config.devices)[:count]
    local = config.fedavg.local_epochs
    passes = [tuple(Pass(int(device), number * local + i) for i in range(local)) for device in np.sort(drawn)]
    size = -(-count // COHORTS)
    cohorts = [tuple(passes[first : first + size]) for first in range(0, count, size)]
    results = workers.map([CohortTask(each, state.weights[0], config.rate(number)) for each in cohorts])
    total = np.zeros(len(setting.initial))
    for cohort, result in zip(cohorts, results, strict=True):
        _check_finite(result, [own[0].device for own in cohort], number)
        total += result.weights * float(result.samples)
    weights = (total / sum(result.samples for result in results)).astype(np.float32)[None]
    spent = {"sharing": 2 * count * len(setting.initial) * FLOAT}
    state = RunState(weights, state.momentum, state.window, state.records)
    return _recorded(setting, workers, state, results, spent, number, time.perf_counter() - began)


def _recorded(
    setting: Setting,
    workers: Workers,
    state: RunState,
    results: Sequence[GroupResult],
    spent: dict[str, int],
    number: int,
    seconds: float,
) -> RunState:
    config = setting.config
    samples = sum(result.samples for result in results)
    loss = sum(result.loss * result.samples for result in results) / samples
    epoch = number // config.rounds_an_epoch
    last = number + 1 == config.rounds
    shared = config.method == "fedavg" or config.sharing.enabled
    groups = None
    if last or (not shared and len(state.weights) == 1):
        each = _accuracies(setting, workers, list(state.weights))
        groups = sum(each) / len(each)
    accuracy = groups
    if shared:
        (accuracy,) = _accuracies(setting, workers, [global_weights(setting, state)])
    record = RoundRecord(number, epoch, samples, loss, accuracy, groups, seconds, spent)
    return replace(state, records=(*state.records, record))


def _accuracies(setting: Setting, workers: Workers, models: Sequence[Floats]) -> list[float]:
    """The share of the test samples that each of the models gets right."""
    samples = len(setting.workload.test)
    starts = range(0, samples, EVALUATED)
    tasks = [EvaluationTask(weights, at, min(at + EVALUATED, samples)) for weights in models for at in starts]
    right = np.array(workers.map(tasks)).reshape(len(models), len(starts)).sum(1)
    return [int(each) / samples for each in right]
