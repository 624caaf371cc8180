"""The simulated run: rounds of groups that train side by side, then share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.methods.slicenet.combining import COMBINATIONS
from crowdlearn_host.methods.slicenet.window import Window

from .rounds.base import Trained
from .rounds.registry import ROUNDS
from .setting import Setting
from .state import RoundRecord, RunState
from .tasks import EvaluationTask
from .workers import Workers

Judge = Callable[[Floats], dict[str, float]]
"""Returns the loss and all metrics, by name, of weights float32 [floats] on the validation split."""
EVALUATED = 2500
"""Test samples that one worker classifies at a time."""


def start(setting: Setting) -> RunState:
    """Return the state before the first round: every group, and the global model, has the initial weights."""
    config = setting.config
    weights = np.tile(setting.initial, (config.strategy.copies(config.devices, config.group), 1))
    omega = config.omega if config.strategy.windowed else 1
    slots = np.zeros((len(weights), len(config.training.rule.slots) * weights.shape[1]), np.float32)
    return RunState(weights, slots, Window(setting.initial, omega), (), (0,) * len(weights))


def run(
    setting: Setting,
    workers: Workers,
    state: RunState | None = None,
    on_round: Callable[[RunState], None] = lambda state: None,
    judge: Judge | None = None,
) -> RunState:
    """Train to the last epoch, from `state` if one is given; `on_round` gets every round's state. `judge`
    evaluates the global model on the validation split after an epoch, if there is one; by that training may
    end early.

    The outcome depends on the setting only: not on the workers, nor on where the run was resumed. The state's
    arrays and window change in place, for groups' weights take the most memory. Raises TrainingError if a
    group cannot train, or training diverges.
    """
    state = state or start(setting)
    config = setting.config
    state.window.combine(COMBINATIONS[config.sharing.combine])
    train_round = ROUNDS[config.strategy.name]
    workers.warm()
    for number in range(len(state.records), setting.rounds):
        if ended(setting, state):
            break
        began = time.perf_counter()
        trained = train_round(setting, workers, state, number)
        state = _recorded(setting, workers, trained, number, time.perf_counter() - began)
        if judge is not None and (number + 1) % config.rounds_an_epoch == 0:
            last = replace(state.records[-1], validation=judge(global_weights(setting, state)))
            state = replace(state, records=(*state.records[:-1], last))
        on_round(state)
    return state


def validated(setting: Setting, state: RunState) -> list[float]:
    """Return the metric that chooses, after every epoch so far."""
    wanted = setting.config.validation
    if wanted is None:
        return []
    return [record.validation[wanted.metric] for record in state.records if record.validation]


def ended(setting: Setting, state: RunState) -> bool:
    """Return whether training ends early after this state, since validation gets no better."""
    wanted = setting.config.validation
    return wanted is not None and wanted.ended(validated(setting, state)) is not None


def global_weights(setting: Setting, state: RunState) -> Floats:
    """Return the global model: the windowed average, or the mean of the groups where nothing is shared.

    They are float32 [floats].
    """
    if setting.config.strategy.windowed:
        return state.window.average()
    if len(state.weights) == 1:
        return state.weights[0].copy()
    return state.weights.mean(axis=0, dtype=np.float64).astype(np.float32)


def _recorded(setting: Setting, workers: Workers, trained: Trained, number: int, seconds: float) -> RunState:
    """Return the state with a round's record."""
    config, state, learned, spent = setting.config, trained.state, trained.learned, trained.spent
    samples = sum(each.samples for each in learned)
    shares = [each.samples / samples for each in learned]
    loss = sum(each.loss * share for each, share in zip(learned, shares, strict=True))
    means = np.average([each.metrics for each in learned], axis=0, weights=shares)
    names = (reference.rpartition(":")[2] for reference in config.device_metrics)
    metrics = dict(zip(names, map(float, means), strict=True))
    epoch = number // config.rounds_an_epoch
    last = number + 1 == setting.rounds
    epsilon, of_groups = setting.epsilon(number), setting.group_epsilon(number)
    shared = config.strategy.shares
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
    record = replace(record, epsilon=epsilon, group_epsilon=of_groups, epsilons=setting.epsilons(number))
    record = replace(record, device_metrics=metrics)
    return replace(state, records=(*state.records, record))


def _tested(setting: Setting, workers: Workers, models: Sequence[Floats]) -> list[float]:
    """Return the share of the test samples that each of the models gets right, or its mean loss, without
    classes.
    """
    samples = len(setting.workload.test)
    starts = range(0, samples, EVALUATED)
    models = [_held(weights) for weights in models]
    tasks = [EvaluationTask(weights, at, min(at + EVALUATED, samples)) for weights in models for at in starts]
    found = np.array(list(workers.each(tasks))).reshape(len(models), len(starts)).sum(1)
    return [float(each) / samples for each in found]


def _held(weights: Floats) -> Floats:
    """Return a view of weights that does not change, which learners turn once for all tasks."""
    view = weights.view()
    view.flags.writeable = False
    return view
