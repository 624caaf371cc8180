"""The simulated run: rounds of groups that train side by side, then share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_device.protocol.schedule import dominator_order
from crowdlearn_export.graph.neuron_graph import FLOAT

from crowdlearn_host.methods.slicenet.window import Window
from crowdlearn_host.simulation.learners.group import GroupResult
from crowdlearn_host.simulation.learners.rounding import BYTES
from crowdlearn_host.simulation.learners.workload import Pass

from .modelled_traffic import shuffle_bytes
from .setting import Setting
from .sharing import by_gradient, share
from .state import RoundRecord, RunState, diverged
from .tasks import CohortTask, EvaluationTask, GroupTask
from .workers import Workers

COHORTS = 12
"""Into as many a round's devices are divided, each averaged by one worker before anything travels: few, and
the same work for 2, 3, 4, 6 or 12 workers. Not by the workers there are: sums would depend on them.
"""
EVALUATED = 2500
"""Test samples that one worker classifies at a time."""


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
    arrays and window change in place, for groups' weights take the most memory. Raises TrainingError if a
    group cannot train, or training diverges.
    """
    state = state or start(setting)
    config = setting.config
    after = _slicenet_round if config.method == "slicenet" else _fedavg_round
    workers.warm()
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
    rate, summed = config.rate(number), by_gradient(config)
    tasks = [
        GroupTask(tuple(Pass(d, epoch) for d in turn), weights, momentum, rate, summed)
        for turn, weights, momentum in zip(turns, state.weights, state.momentum, strict=True)
    ]
    learned: list[tuple[int, float]] = []

    def trained() -> Iterator[GroupResult]:
        """Yield each group's result, of which the state keeps what the next round begins with."""
        for group, (turn, result) in enumerate(zip(turns, workers.each(tasks), strict=True)):
            _check_finite(result, turn, number)
            state.weights[group], state.momentum[group] = result.weights, result.momentum
            learned.append((result.samples, result.loss))
            yield result

    spent = {"activation": 0, "error": 0, "shuffle": 0, "sharing": 0}
    if config.sharing.enabled:
        holders = [_holders(order, turn[-1]) for order, turn in zip(orders, turns, strict=True)]
        spent["sharing"] = share(setting, state.window, holders, trained(), state.weights, number)
    else:
        for _ in trained():
            pass
    samples = sum(count for count, _ in learned)
    spent["activation"], spent["error"] = (
        samples * floats * BYTES[config.training.wire]
        for floats in (setting.sums_per_sample, setting.errors_per_sample)
    )
    shuffles = len(turns[0]) - config.renews
    spent["shuffle"] = shuffle_bytes(config, setting.pieces, setting.frozen) * shuffles * config.groups
    if setting.gradient_bytes:
        batches = sum(len(setting.workload.order(Pass(d, epoch))[1]) for turn in turns for d in turn)
        spent["gradient"] = batches * setting.gradient_bytes
    return _recorded(setting, workers, state, learned, spent, number, time.perf_counter() - began)


def _holders(order: Sequence[int], dominator: int) -> list[int]:
    """The devices of pieces 0, 1, ...: the dominator, then the others in the order of their passes."""
    at = order.index(dominator)
    return [*order[at:], *order[:at]]


def _check_finite(result: GroupResult, devices: Sequence[int], number: int) -> None:
    if not result.finite:
        told = ", ".join(map(str, devices))
        raise diverged(number, f"weights or loss are not finite after the passes of devices {told}")


def _fedavg_round(setting: Setting, workers: Workers, state: RunState, number: int) -> RunState:
    began = time.perf_counter()
    config = setting.config
    count = max(1, round(config.fedavg.fraction * config.devices))
    drawn = np.random.default_rng((config.seed, number, 2)).permutation(config.devices)[:count]
    local = config.fedavg.local_epochs
    passes = [tuple(Pass(int(device), number * local + i) for i in range(local)) for device in np.sort(drawn)]
    size = -(-count // COHORTS)
    cohorts = [tuple(passes[first : first + size]) for first in range(0, count, size)]
    tasks = [CohortTask(each, state.weights[0].copy(), config.rate(number)) for each in cohorts]
    total = np.zeros(len(setting.initial))
    learned = []
    for cohort, result in zip(cohorts, workers.each(tasks), strict=True):
        _check_finite(result, [own[0].device for own in cohort], number)
        total += result.weights * float(result.samples)
        learned.append((result.samples, result.loss))
    weights = (total / sum(samples for samples, _ in learned)).astype(np.float32)[None]
    spent = {"sharing": 2 * count * int((~setting.frozen).sum()) * FLOAT}
    state = RunState(weights, state.momentum, state.window, state.records)
    return _recorded(setting, workers, state, learned, spent, number, time.perf_counter() - began)


def _recorded(
    setting: Setting,
    workers: Workers,
    state: RunState,
    learned: Sequence[tuple[int, float]],
    spent: dict[str, int],
    number: int,
    seconds: float,
) -> RunState:
    """Return the state with a round's record. Each group `learned` from some samples, at a mean loss."""
    config = setting.config
    samples = sum(count for count, _ in learned)
    loss = sum(own * count for count, own in learned) / samples
    epoch = number // config.rounds_an_epoch
    last = number + 1 == config.rounds
    shared = config.method == "fedavg" or config.sharing.enabled
    groups = None
    if last or (not shared and len(state.weights) == 1):
        each = _tested(setting, workers, list(state.weights))
        groups = sum(each) / len(each)
    tested = groups
    if shared:
        (tested,) = _tested(setting, workers, [global_weights(setting, state)])
    if setting.workload.by_classes:
        record = RoundRecord(number, epoch, samples, loss, tested, groups, seconds, spent)
    else:
        record = RoundRecord(number, epoch, samples, loss, None, None, seconds, spent, tested)
    return replace(state, records=(*state.records, record))


def _tested(setting: Setting, workers: Workers, models: Sequence[Floats]) -> list[float]:
    """The share of the test samples that each of the models gets right, or its mean loss, without classes."""
    samples = len(setting.workload.test)
    starts = range(0, samples, EVALUATED)
    tasks = [EvaluationTask(weights, at, min(at + EVALUATED, samples)) for weights in models for at in starts]
    found = np.array(list(workers.each(tasks))).reshape(len(models), len(starts)).sum(1)
    return [float(each) / samples for each in found]
