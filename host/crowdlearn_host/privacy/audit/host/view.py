"""One round of a simulated crowd, and what the host gets of it in each mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint
from crowdlearn_device.privacy.aggregation.projection import BLOCK, ROWS, SEED_BYTES, entries, projected
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

from crowdlearn_host.methods.secure_sharing import LEAST_GROUPS, SecureSum
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.tasks import GroupTask
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.simulation import SimulationConfig

MODES = ("plain", "secure", "dp")
PROJECTED = {"secure projected": "secure", "dp projected": "dp"}
"""Modes in which the host has random projections of each device's move beside the sum of a mode."""
BATCH, RATE, EPOCHS = 10, 0.1, 2
NOISY = {"epochs": 4, "batch": 25, "learning_rate": 2.0}
"""The training of DP-SGD: clipped gradients are small, and larger mini-batches drown less in noise."""


@dataclass(frozen=True)
class HostView:
    """The moves that the host sees in one round, and the samples behind each.

    `moves` are float32 [n, weights], weights after the round less those before it, of one device or of the
    mean of all. Of projections they are what those give. `members` are the positions of the samples that each
    was trained on. `epsilon` is what a device has spent, None without noise.
    """

    moves: Floats
    members: tuple[NDArray[np.int64], ...]
    initial: Floats
    epsilon: float | None


def config_of(mode: str, devices: int, inputs: int, epsilon: float, seed: int) -> SimulationConfig:
    """Return the crowd of a mode: each device trains the whole network, and shares after its passes."""
    mode = PROJECTED.get(mode, mode)
    private = mode == "dp"
    usual = {"epochs": EPOCHS, "batch": BATCH, "learning_rate": RATE}
    return SimulationConfig.model_validate(
        {
            "seed": seed,
            "model": f"crowdlearn_host.privacy.audit.host.networks:pixels_{inputs}",
            "devices": devices,
            "group": 1,
            "pieces": 1,
            "training": NOISY if private else usual,
            "sharing": {"theta": 1.0, "secure": mode != "plain"},
            "privacy": {"epsilon": epsilon, "clip": 1.0} if private else {},
        }
    )


def host_view(
    mode: str, data: Dataset, devices: list[NDArray[np.int64]], epsilon: float, seed: int
) -> HostView:
    """Train every device once, for all its passes, and return what the host gets.

    `devices` are int64 [n] each, positions in `data`. Raises ConfigError if no sum would be released.
    """
    config = config_of(mode, len(devices), int(np.prod(data.inputs.shape[1:])), epsilon, seed)
    setting = prepare(config, data, data, devices)
    results = list(_trained(setting))
    spent = setting.epsilon(config.rounds - 1)
    if not config.sharing.secure:
        moves = np.stack(results) - setting.initial
        return HostView(moves, tuple(devices), setting.initial, spent)
    if mode in PROJECTED:
        rng = np.random.default_rng((seed, 24))
        seen = np.stack([lifted(rng.bytes(SEED_BYTES), weights - setting.initial) for weights in results])
        return HostView(seen, tuple(devices), setting.initial, spent)
    total = SecureSum(len(setting.initial), len(devices))
    for weights in results:
        total.add(weights)
    return HostView(
        (total.mean() - setting.initial)[None], (np.concatenate(devices),), setting.initial, spent
    )


def lifted(seed: bytes, move: Floats) -> Floats:
    """Return the estimate of a move, float32 [weights], that its projections give: right in the mean."""
    numbers = FixedPoint(LEAST_GROUPS)
    shown = projected(seed, ((0, len(move)),), numbers.encode(move)).view(np.int32)
    whole = np.concatenate([entries(seed, block) @ shown for block in range(-(-len(move) // BLOCK))])
    estimate: Floats = (2 / ROWS * whole[: len(move)] / (1 << numbers.fraction)).astype(np.float32)
    return estimate


def single_view(data: Dataset, samples: NDArray[np.int64], epsilon: float, seed: int) -> HostView:
    """Return the move of one device that trains by DP-SGD, without a sum to hide in: more than the host gets.

    `samples` are int64 [n], positions in `data`.
    """
    config = config_of("dp", 8, int(np.prod(data.inputs.shape[1:])), epsilon, seed)
    alone = config.model_copy(
        update={"devices": 1, "sharing": config.sharing.model_copy(update={"secure": False})}
    )
    setting = prepare(alone, data, data, [samples])
    (weights,) = _trained(setting)
    return HostView(
        (weights - setting.initial)[None], (samples,), setting.initial, setting.epsilon(alone.rounds - 1)
    )


def _trained(setting: Setting) -> list[Floats]:
    config = setting.config
    passes = range(config.training.epochs)
    tasks = [
        GroupTask(
            tuple(Pass(device, epoch) for epoch in passes),
            setting.initial.copy(),
            np.zeros(0, np.float32),
            config.training.learning_rate,
            accumulate=False,
        )
        for device in range(config.devices)
    ]
    with InProcess(setting.workload) as workers:
        return [result.weights for result in workers.each(tasks)]
