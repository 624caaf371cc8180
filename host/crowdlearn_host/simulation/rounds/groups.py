"""Rounds of groups that train side by side (SliceNet), and share or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from crowdlearn_device.privacy.masked import WORD_BYTES
from crowdlearn_device.protocol.schedule import dominator_order

from crowdlearn_host.simulation.learners.group import GroupResult
from crowdlearn_host.simulation.learners.rounding import BYTES
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.modelled_traffic import shuffle_bytes
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.sharing import by_gradient, share
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.tasks import GroupTask
from crowdlearn_host.simulation.workers import Workers

from .base import Learned, Trained, check_finite


def train_groups(setting: Setting, workers: Workers, state: RunState, number: int) -> Trained:
    """Train every group for its passes of the round, then share if the strategy does."""
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
        GroupTask(tuple(Pass(d, epoch) for d in turn), weights, slots, rate, summed, updates)
        for turn, weights, slots, updates in zip(
            turns, state.weights, state.slots, state.updates, strict=True
        )
    ]
    learned: list[Learned] = []
    updates: list[int] = []

    def trained() -> Iterator[GroupResult]:
        """Yield each group's result, of which the state keeps what the next round begins with."""
        for group, (turn, result) in enumerate(zip(turns, workers.each(tasks), strict=True)):
            check_finite(result, turn, number)
            state.weights[group], state.slots[group] = result.weights, result.slots
            learned.append(Learned.of(result))
            updates.append(result.updates)
            yield result

    spent = {"activation": 0, "error": 0, "shuffle": 0, "sharing": 0}
    if config.strategy.shares:
        holders = [_holders(order, turn[-1]) for order, turn in zip(orders, turns, strict=True)]
        spent["sharing"] = share(setting, state.window, holders, trained(), state.weights, number)
    else:
        for _ in trained():
            pass
    samples = sum(each.samples for each in learned)
    spent["activation"], spent["error"] = (
        samples * floats * BYTES[config.training.wire]
        for floats in (setting.sums_per_sample, setting.errors_per_sample)
    )
    spent["activation"] += samples * setting.masked_per_sample * (WORD_BYTES - BYTES[config.training.wire])
    shuffles = len(turns[0]) - config.renews
    spent["shuffle"] = (
        shuffle_bytes(config, setting.pieces, setting.frozen, setting.narrowed) * shuffles * config.groups
    )
    if setting.gradient_bytes:
        batches = sum(len(setting.workload.batches(Pass(d, epoch))) for turn in turns for d in turn)
        spent["gradient"] = batches * setting.gradient_bytes
    return Trained(replace(state, updates=tuple(updates)), learned, spent)


def _holders(order: Sequence[int], dominator: int) -> list[int]:
    """Return the devices of pieces 0, 1, ...: the dominator, then the others in the order of their passes."""
    at = order.index(dominator)
    return [*order[at:], *order[:at]]
