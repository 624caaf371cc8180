"""Every sharing strategy keeps what the base says, in the registry's own words and in a simulated run."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_host.methods.registry import STRATEGIES
from crowdlearn_host.simulation.engine import global_weights, run
from crowdlearn_host.simulation.rounds.registry import ROUNDS
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.simulation import SimulationConfig

DEVICES, GROUP = 6, 3
ALL = pytest.mark.parametrize("name", STRATEGIES)


def setting(name: str, epochs: int = 2) -> Setting:
    rng = np.random.default_rng(0)
    data = Dataset(rng.normal(size=(120, 8)).astype(np.float32), rng.integers(0, 4, 120))
    config = SimulationConfig.model_validate(
        {
            "model": "mlp:8-6-4",
            "method": name,
            "devices": DEVICES,
            "group": GROUP,
            "training": {"epochs": epochs, "batch": 10},
        }
    )
    parts = [np.arange(device, 120, DEVICES) for device in range(DEVICES)]
    return prepare(config, data, data, parts)


@ALL
def test_a_strategy_is_what_its_name_says(name: str) -> None:
    strategy = STRATEGIES[name]
    assert strategy.name == name
    assert name in ROUNDS
    members = strategy.members(GROUP)
    assert DEVICES % members == 0
    assert 1 <= strategy.copies(DEVICES, GROUP) <= DEVICES
    assert strategy.rounds_an_epoch(GROUP, 0) == 1
    assert strategy.shares or not strategy.windowed
    assert strategy.alone().name in STRATEGIES


@ALL
def test_a_run_learns_from_every_round_and_ends_in_one_model(name: str) -> None:
    made = setting(name)
    kept: list[int] = []
    state = run(made, InProcess(made.workload), None, lambda state: kept.append(len(state.records)))
    assert kept == list(range(1, made.config.rounds + 1))
    weights = global_weights(made, state)
    assert weights.shape == made.initial.shape
    assert np.isfinite(weights).all()
    assert not np.array_equal(weights, made.initial)
    assert sum(record.samples for record in state.records) == made.config.training.epochs * 120
    assert (sum(sum(r.bytes.values()) for r in state.records) > 0) == (name != "alone" or GROUP > 1)


@ALL
def test_a_run_repeats_and_goes_on_to_the_same_bits(name: str) -> None:
    whole, half = setting(name), setting(name)
    expected = global_weights(whole, run(whole, InProcess(whole.workload)))

    class Stop(Exception):
        pass

    def stop(state) -> None:
        reached.append(state)
        raise Stop

    reached: list = []
    with pytest.raises(Stop):
        run(half, InProcess(half.workload), None, stop)
    state = run(half, InProcess(half.workload), reached[0])
    assert np.array_equal(global_weights(half, state), expected)
