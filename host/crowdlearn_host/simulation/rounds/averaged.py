"""Rounds of federated averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.neuron_graph import FLOAT

from crowdlearn_host.simulation.learners import kernels
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import Setting
from crowdlearn_host.simulation.state import RunState
from crowdlearn_host.simulation.tasks import CohortTask, StatisticsTask
from crowdlearn_host.simulation.workers import Workers

from .base import Learned, Trained, check_finite

COHORTS = 12
"""Into as many a round's devices are divided, each averaged by one worker before anything travels: few, and
the same work for 2, 3, 4, 6 or 12 workers. Not by the workers there are: sums would depend on them.
"""
FEW = 12_000
"""Samples of a round below which there are half as many cohorts: each costs something, whatever it trains."""
STATISTICS_SAMPLES = 2048
"""Samples of all devices of a round together by which running statistics are recomputed, at least: means
are 2.2 % of a deviation off then, a sixth of what those of a mini-batch are.
"""
STATISTICS_ROWS = 16
"""Samples of each device by which they are recomputed, at least: fewer tell little of its variance."""


def average_devices(setting: Setting, workers: Workers, state: RunState, number: int) -> Trained:
    """Train the whole network on a share of the devices, and average it by their samples."""
    config = setting.config
    count = max(1, round(config.fedavg.fraction * config.devices))
    drawn = np.random.default_rng((config.seed, number, 2)).permutation(config.devices)[:count]
    local = config.fedavg.local_epochs
    passes = [tuple(Pass(int(device), number * local + i) for i in range(local)) for device in np.sort(drawn)]
    samples = sum(setting.workload.samples(each) for own in passes for each in own)
    size = -(-count // (COHORTS if samples >= FEW else COHORTS // 2))
    cohorts = [tuple(passes[first : first + size]) for first in range(0, count, size)]
    keeps = config.fedavg.batch_norm == "keep" and bool(setting.statistics.any())
    if keeps and not len(state.kept):
        state = replace(
            state, kept=np.full((config.devices, int(setting.statistics.sum())), np.nan, np.float32)
        )
    rate, places = config.rate(number), np.flatnonzero(setting.statistics) if keeps else None
    start = state.weights[0].copy()  # one for all tasks: it travels, and is turned, once
    start.flags.writeable = False
    tasks = [
        CohortTask(each, start, rate, _own(setting, state, each) if keeps else None, places)
        for each in cohorts
    ]
    total = np.zeros(len(setting.initial))
    learned = []
    for cohort, result in zip(cohorts, workers.each(tasks), strict=True):
        check_finite(result, [own[0].device for own in cohort], number)
        kernels.add_weighed(total, result.weights, float(result.samples))
        learned.append(Learned.of(result))
        if keeps:
            state.kept[[own[0].device for own in cohort]] = result.slots
    samples = sum(each.samples for each in learned)
    weights = (total / samples).astype(np.float32)[None]
    travels = ~setting.frozen & ~(setting.statistics & keeps)
    spent = {"sharing": 2 * count * int(travels.sum()) * FLOAT}
    if keeps:
        trained = np.flatnonzero(~np.isnan(state.kept).any(1))
        counts = np.array([len(setting.workload.devices[device]) for device in trained], np.float64)
        weights[0, setting.statistics] = np.average(state.kept[trained], axis=0, weights=counts)
    if config.fedavg.batch_norm == "recompute" and setting.statistics.any():
        devices = [tuple(own[0] for own in cohort) for cohort in cohorts]
        most = max(-(-STATISTICS_SAMPLES // count), STATISTICS_ROWS)
        averaged, places = weights[0].copy(), np.flatnonzero(setting.statistics)
        averaged.flags.writeable = False
        found = workers.each([StatisticsTask(own, averaged, places, most) for own in devices])
        again = np.zeros(len(places))
        for each, statistics in zip(learned, found, strict=True):
            again += statistics * float(each.samples)
        weights[0, places] = again / samples
        # Averaged weights travel to the devices once more, and their statistics back.
        spent["sharing"] += 2 * count * int(setting.statistics.sum()) * FLOAT
    state = replace(state, weights=weights)
    return Trained(state, learned, spent)


def _own(setting: Setting, state: RunState, cohort: Sequence[Sequence[Pass]]) -> Floats:
    """Return each device's own running statistics, float32 [devices, statistics]: those of the initial model
    before its first pass.
    """
    kept = state.kept[[own[0].device for own in cohort]]
    return np.where(np.isnan(kept), setting.initial[setting.statistics], kept)
