"""Simulated runs by secure sums and by DP-SGD."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError
from crowdlearn_device.privacy.aggregation.lot import drawn
from crowdlearn_device.privacy.dp.noisy_move import discrete_gaussian
from crowdlearn_device.privacy.labels import flipped, private_labels
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_host.cli import build
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.secure_sharing import (
    SecureSum,
    clipped,
    least_contributors,
)
from crowdlearn_host.privacy.dp.budget import Budget
from crowdlearn_host.report.page import page
from crowdlearn_host.report.run import read_run
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.results.spent import spent_of
from crowdlearn_host.runs.simulated import simulate_run
from crowdlearn_host.simulation.engine import global_weights, run
from crowdlearn_host.simulation.setting import Setting, prepare
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulation_of
from crowdlearn_host.spec.simulation import SimulationConfig
from typer.testing import CliRunner

MODEL = """
from torch import nn

def tanh():
    return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.cells(x.reshape(-1, 8, 8))[0][:, -1])
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "tanh_model.py").write_text(MODEL)
    return f"{tmp_path / 'tanh_model.py'}:tanh"


def setting(model: str, *, groups: int = 8, epochs: int = 2, **sections: Any) -> Setting:
    rng = np.random.default_rng(0)
    inputs = rng.random((640, 64), np.float32)
    data = Dataset(inputs, (inputs @ rng.normal(size=(64, 10))).argmax(1))
    values = {
        "model": model,
        "devices": groups * 2,
        "group": 2,
        "training": {"epochs": epochs, "batch": 10, "learning_rate": 0.2},
        "sharing": {"theta": 1.0},
        **sections,
    }
    each = np.array_split(np.arange(640), groups * 2)
    return prepare(SimulationConfig.model_validate(values), data, data, each)


def trained(of: Setting) -> np.ndarray:
    with InProcess(of.workload) as workers:
        return global_weights(of, run(of, workers))


@pytest.mark.parametrize("omega", [0, 16])
def test_a_window_of_sums_is_the_plain_one_where_all_share_all(model: str, omega: int) -> None:
    plain, secure = (
        trained(setting(model, sharing={"theta": 1.0, "omega": omega, "secure": kind}))
        for kind in (False, True)
    )
    assert np.abs(plain - secure).max() < 1e-5


def test_a_lot_is_the_same_for_all_and_another_in_every_round(model: str) -> None:
    first, again, second = (drawn(7, number, 0.25, 0, 100_000) for number in (0, 0, 1))
    assert (first == again).all()
    assert (first != second).any()
    assert abs(first.mean() - 0.25) < 0.01
    assert (drawn(7, 0, 0.25, 65_000, 66_000) == first[65_000:66_000]).all()
    half = setting(model, sharing={"theta": 0.5, "tau": 0.0, "secure": True}, epochs=1)
    whole = setting(model, sharing={"theta": 1.0, "tau": 0.0, "secure": True}, epochs=1)
    moved = trained(half) != half.initial
    assert 0.4 < moved.mean() < 0.6
    assert np.abs(trained(half)[moved] - trained(whole)[moved]).max() < 1e-6


def test_sums_that_would_tell_too_much_are_refused(model: str) -> None:
    assert least_contributors(rank=16, samples=80) == 8
    assert least_contributors(rank=400, samples=50) == 32
    for sharing, groups, reason in (
        ({"secure": True}, 7, "at least 8 groups"),
        ({"secure": True, "omega": 12}, 8, "choose a multiple"),
        ({"secure": True, "values": "int8"}, 8, "fixed point"),
    ):
        with pytest.raises(ConfigError, match=reason):
            setting(model, groups=groups, sharing=sharing)
    few = setting(model, groups=8).workload
    with pytest.raises(ConfigError, match="could move in 16 directions; 16 groups"):
        prepare(
            few.config.model_copy(update={"sharing": few.config.sharing.model_copy(update={"secure": True})}),
            Dataset(few.inputs[:32], few.labels[:32]),
            few.test,
            np.array_split(np.arange(32), 16),
        )
    total = SecureSum(3, 8)
    total.add(np.zeros(3, np.float32))
    with pytest.raises(ConfigError, match="not released"):
        total.mean()


def test_moves_are_clipped_and_a_group_that_lies_is_left_out(model: str) -> None:
    """What a group adds beyond the bound is refused; without a bound it moves the model at will."""
    wide = {"theta": 1.0, "tau": 0.0, "secure": True, "norm_bound": 0.01}
    private = {"noise": 0.3, "clip": 1.0}
    honest = setting(model, groups=9, epochs=1, sharing=wide, privacy=private)
    liar = replace(honest, unclipped=frozenset({0}))
    moved, lied = (trained(each) - each.initial for each in (honest, liar))
    assert 0.001 < np.linalg.norm(moved) <= 0.01 + 1e-4
    assert 0 < np.linalg.norm(lied - moved) <= 0.02 / 8 + 1e-4  # eight groups instead of nine
    for sharing, privacy, reason in (
        ({**wide, "theta": 0.5}, private, "set secure, and theta = 1"),
        ({**wide, "secure": False}, private, "set secure, and theta = 1"),
        ({**wide, "noise": 1.0}, private, "leave out one of them"),
        (wide, {}, "set privacy.epsilon or noise"),
        ({**wide, "norm_bound": 65.0}, private, "less than or equal to 64"),
    ):
        with pytest.raises(ConfigError, match=reason):
            setting(model, groups=9, sharing=sharing, privacy=privacy)
    few = replace(setting(model, groups=8, epochs=1, sharing=wide, privacy=private), unclipped=frozenset({0}))
    with pytest.raises(ConfigError, match="1 groups moved further than"):
        trained(few)


def test_epsilon_is_told_and_keeps_to_what_was_asked_for(model: str) -> None:
    of = setting(model, groups=1, epochs=3, privacy={"epsilon": 6.0}, sharing={"enabled": False})
    with InProcess(of.workload) as workers:
        state = run(of, workers)
    told = [record.epsilon for record in state.records]
    assert told == sorted(told)
    assert 5.9 < told[-1] <= 6.0
    assert not np.array_equal(state.weights[0], of.initial)


def test_training_ends_before_a_budget_is_exceeded(model: str, tmp_path: Path) -> None:
    budget = Budget(4.0, 1e-5, 2.0, 10, 1000)
    affordable = budget.affordable([100])
    assert 0 < affordable < 1000
    assert budget.spent(100, affordable) <= 4.0 < budget.spent(100, affordable + 1)
    spec = RunSpec.model_validate(
        {
            "model": model,
            "data": "digits",
            "group": {"pieces": 2},
            "training": {"epochs": 500, "batch": 256, "momentum": 0, "seed": 3},
            "privacy": {"epsilon": 3.0, "noise": 1.5},
        }
    )
    told: list[tuple[str, dict]] = []
    state = simulate_run(
        simulation_of(spec), tmp_path / "run", lambda name, fields: told.append((name, fields)), Interrupt()
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < len(rows) == len(state.records) < 500
    assert rows[-1]["epsilon"] <= 3.0
    assert any("pays for" in fields.get("text", "") for name, fields in told if name == "note")
    account = spent_of(tmp_path / "run")
    assert account.sample == rows[-1]["epsilon"] == max(account.devices.values())
    told_by = page(read_run(tmp_path / "run"))
    assert f"<b>{account.sample:.2f}</b><span>epsilon of a sample</span>" in told_by
    assert "Epsilon spent" in told_by
    privacy = ["privacy", str(tmp_path / "run")]
    as_json = CliRunner().invoke(build(["privacy"]), [*privacy, "--json"])
    assert json.loads(as_json.stdout)["privacy"]["sample"] == account.sample
    in_words = CliRunner().invoke(build(["privacy"]), [*privacy, "--data", "digits"])
    assert f"epsilon {account.sample:.2f} of a sample, the largest of all devices, at delta 1e-05" in (
        in_words.stdout
    )
    spent = spec.model_copy(update={"privacy": spec.privacy.model_copy(update={"noise": 0.3})})
    with pytest.raises(ConfigError, match="spent before the first epoch"):
        simulate_run(simulation_of(spent), tmp_path / "none", lambda *_: None, Interrupt())


def test_the_smallest_device_is_the_one_that_is_told() -> None:
    budget = Budget(None, 1e-5, 1.0, 10, 5)
    assert budget.total([50, 1000], 5) == budget.spent(50, 5) > budget.spent(1000, 5)
    assert budget.total([0, 0], 5) == 0


def test_batch_norm_is_refused_by_name_and_so_is_what_does_not_fit(model: str) -> None:
    with pytest.raises(UnsupportedModule, match=r"batch norm.*GroupNorm"):
        setting("mlp:64-16-10", groups=1, privacy={"epsilon": 2.0})
    for sums, reason in (
        ("shares", "set training.batch = 32 or more"),
        ("masked", "masks round all"),
    ):
        values = {"model": model, "devices": 4, "group": 4, "training": {"batch": 10}}
        with pytest.raises(ConfigError, match=reason):
            SimulationConfig.model_validate({**values, "privacy": {"epsilon": 2.0, "sums": sums}})


def test_phones_refuse_steps_that_would_not_hide_a_sample(model: str) -> None:
    """Each by name, and before anything is compiled."""
    private = {"model": model, "data": "digits", "privacy": {"epsilon": 2.0}}
    for section, reason in (
        ({"training": {"staleness": 1}}, "staleness"),
        ({"training": {"clip_norm": 1.0}}, "clip_norm"),
        ({"training": {"weight_decay": 0.1}}, "weight_decay"),
        (
            {"device_data": "samples", "input_shape": (64,), "privacy": {"epsilon": 2.0, "order": "seed"}},
            "subtract the noise",
        ),
    ):
        with pytest.raises(ConfigError, match=reason):
            RunSpec.model_validate({**private, **section})
    normed = RunSpec.model_validate({**private, "model": "mlp:64-16-10", "group": {"pieces": 2}})
    with pytest.raises(UnsupportedModule, match=r"batch norm.*GroupNorm"):
        check(normed)
    recurrent = RunSpec.model_validate(
        {**private, "model": model.replace(":tanh", ":Recurrent"), "group": {"pieces": 1}}
    )
    told = check(recurrent, devices=1).clipping
    assert "each sample's gradient alone" in told
    assert "cells.weight_ih_l0 is used by gru" in told
    assert not check(RunSpec.model_validate({**private, "group": {"pieces": 1}})).clipping
    spent = {**private, "privacy": {"epsilon": 0.1, "noise": 0.5}, "group": {"pieces": 2}}
    with pytest.raises(ConfigError, match="spent before the first epoch is over"):
        check(RunSpec.model_validate(spent), devices=2)


def test_descriptions_that_phones_cannot_sum_are_refused(model: str) -> None:
    for section, reason in (
        ({"group": {"groups": 7}, "sharing": {"secure": True}}, "at least 8 groups"),
        ({"group": {"groups": 8}, "sharing": {"secure": True, "values": "int8"}}, "fixed point"),
        ({"group": {"groups": 8}, "sharing": {"secure": True, "combine": "median"}}, "sums alone"),
        ({"sharing": {"noise": 1.0}}, "set secure"),
        (
            {
                "group": {"groups": 8, "pieces": 4},
                "sharing": {"secure": True},
                "privacy": {"sums": "shares"},
            },
            "leave out privacy.sums or sharing.secure",
        ),
    ):
        with pytest.raises(ConfigError, match=reason):
            RunSpec.model_validate({"model": model, "data": "digits", **section})


def test_a_label_stays_with_the_probability_of_randomised_response() -> None:
    labels = np.arange(100_000) % 10
    changed = flipped(labels, 10, 2.0, np.random.default_rng(0))
    kept = float((changed == labels).mean())
    assert kept == pytest.approx(np.exp(2) / (np.exp(2) + 9), abs=0.005)
    others = np.bincount(changed[labels == 3], minlength=10)[[0, 1, 2, 4, 5, 6, 7, 8, 9]]
    assert others.max() / others.min() < 1.3


def test_a_device_draws_its_labels_once_from_its_own_secret() -> None:
    data = Dataset(np.zeros((500, 3), np.float32), np.arange(500) % 10)
    first, again, other = (private_labels(data, 10, 1.0, secret).labels for secret in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (first != data.labels).any()
    assert (data.labels == np.arange(500) % 10).all()
    with pytest.raises(DataError, match="not one class"):
        private_labels(Dataset(data.inputs, data.inputs), 10, 1.0, 1)


def test_noise_in_the_sum_has_the_deviation_that_was_asked_for_and_moves_are_clipped() -> None:
    for deviation in (0.7, 3.0, 50.0):
        drawn = discrete_gaussian(deviation, 200_000, np.random.default_rng(0))
        assert abs(drawn.mean()) < 0.02 * deviation
        assert drawn.std() == pytest.approx(deviation, rel=0.02)
    total = SecureSum(50_000, 8, noise=0.4)
    for _ in range(8):
        total.add(np.zeros(50_000, np.float32))
    assert float(total.mean().std()) * 8 == pytest.approx(0.4, rel=0.02)
    move = np.full(100, 0.3, np.float32)
    assert float(np.linalg.norm(clipped(move, 1.0))) == pytest.approx(1.0, rel=1e-5)
    assert (clipped(move, 4.0) == move).all()


def test_a_group_has_an_epsilon_of_its_own_in_noisy_sums(model: str) -> None:
    noisy = {"theta": 1.0, "tau": 0.0, "secure": True, "noise": 1.0, "clip": 0.5}
    of = setting(model, sharing=noisy)
    with InProcess(of.workload) as workers:
        state = run(of, workers)
    told = [record.group_epsilon for record in state.records]
    assert 0 < told[0] < told[1] < 10
    # A mean of moves of norm 0.5, and noise of deviation 0.5 / 8 in each of the weights.
    moved = np.linalg.norm(state.window.average() - of.initial)
    assert moved < 2 * (0.5 + 1.2 * 0.5 / 8 * len(of.initial) ** 0.5)
    with pytest.raises(ConfigError, match="set secure"):
        setting(model, sharing={"noise": 1.0})
