"""The simulation computes what virtual phones compute: the same seed and settings give the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_export.graph.weights import state_of
from crowdlearn_host.coordinator.storage.run_folder import RunFolder, load_model_state
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.groups import shared_model_of
from crowdlearn_host.runs.joint import JointWeights
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.results.spent import spent_of
from crowdlearn_host.simulation.engine import global_weights, run
from crowdlearn_host.simulation.setting import prepare as simulated
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulated as as_simulation

from .over_adb import trained

pytestmark = pytest.mark.system
PHONES = 4
MODEL = "mlp:64-40-24-10"
TRAINING = {"epochs": 2, "batch": 32, "learning_rate": 0.05, "wire": "float32"}
HEAVY = {"momentum": 0.9, "weight_decay": 1e-4}
WITHOUT_BATCH_NORM = """
from torch import nn

def dense():
    layers = nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 10)
    return nn.Sequential(nn.Flatten(), *layers)

def convolutional():
    body = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.GroupNorm(2, 8), nn.Tanh()
    return nn.Sequential(*body, nn.Flatten(), nn.LayerNorm(128), nn.Linear(128, 10))
"""
STEPS = {"float32": 0.0, "float16": 2**-10, "int8": 1 / 127}
"""Between neighbouring values as they are shared, over the largest. Weights differ in their last bits, so
that one may be rounded to the next.
"""
RARELY = 1 / 500
HALF = {"theta": 0.5, "tau": 0.5, "values": "int8"}
RENEWED = {"every": 1, "theta": 1.0, "tau": 0.0, "values": "float16"}


@pytest.mark.parametrize(
    ("groups", "pieces", "training", "sharing"),
    [
        (1, 3, {**TRAINING, **HEAVY}, {}),
        (1, 1, {**TRAINING, **HEAVY}, {}),
        (2, 2, {**TRAINING, "momentum": 0.0}, RENEWED),
        (2, 2, {**TRAINING, **HEAVY}, HALF),
        (1, 3, {**TRAINING, **HEAVY, "staleness": 1}, {}),
    ],
    ids=[
        "one group",
        "the whole network on one phone",
        "two groups that share after every pass",
        "two groups that share half of their weights as int8",
        "mini-batches overlap",
    ],
)
def test_phones_and_simulation_end_with_the_same_weights(
    tmp_path: Path, groups: int, pieces: int, training: dict[str, Any], sharing: dict[str, Any]
) -> None:
    values: dict[str, Any] = {"data": "digits", "model": MODEL}
    values["group"] = {"pieces": pieces, "groups": groups}
    values["training"] = {**training, "seed": 5, "kernels": "by_size"}
    if groups > 1:
        values["sharing"] = {**sharing, "synchronous": True}
    floats, off = compared(values, tmp_path)
    step = STEPS[sharing.get("values", "float32")] * max(
        float(value.abs().max()) for value in floats.values()
    )
    assert off.max() <= 1e-4 + step
    assert np.mean(off > 1e-4) <= (RARELY if step else 0)


@pytest.mark.parametrize(
    "sharing",
    [
        {"theta": 0.7},
        pytest.param({"theta": 1.0, "noise": 1e-9, "clip": 0.3}, marks=pytest.mark.nightly),
    ],
    ids=["a lot of the weights", "clipped moves, with noise that no number shows"],
)
def test_secure_sums_of_phones_are_those_of_a_simulation(tmp_path: Path, sharing: dict[str, Any]) -> None:
    """Eight groups, each of one phone, that share by sums alone."""
    values: dict[str, Any] = {"data": "digits", "model": MODEL, "group": {"pieces": 1, "groups": 8}}
    values["training"] = {**TRAINING, "seed": 5, "kernels": "by_size", "momentum": 0.0}
    values["sharing"] = {"secure": True, "tau": 0.0, **sharing}
    _, off = compared(values, tmp_path, phones=8)
    assert off.max() <= 1e-4
    with RunFolder(tmp_path / "run", create=False) as folder:
        purposes = {row["purpose"] for row in folder.load_traffic() if row["direction"] == "up"}
    assert "sharing" in purposes
    assert "sum_begun_anew" not in (tmp_path / "run" / "events.jsonl").read_text()
    assert (spent_of(tmp_path / "run").group is not None) == ("noise" in sharing)


@pytest.mark.nightly
def test_bounded_sums_of_phones_are_those_of_a_simulation(tmp_path: Path) -> None:
    """Eight groups, each of one phone: their moves are clipped, projected, and none is refused."""
    (tmp_path / "own_model.py").write_text(WITHOUT_BATCH_NORM)
    values: dict[str, Any] = {"data": "digits", "group": {"pieces": 1, "groups": 8}}
    values["model"] = f"{tmp_path / 'own_model.py'}:dense"
    values["training"] = {**TRAINING, "seed": 5, "kernels": "by_size", "momentum": 0.0}
    values["privacy"] = {"noise": 0.5, "clip": 0.7}
    values["sharing"] = {"secure": True, "theta": 1.0, "tau": 0.0, "norm_bound": 0.3}
    _, off = compared(values, tmp_path, phones=8)
    assert off.max() <= 1e-4
    told = (tmp_path / "run" / "events.jsonl").read_text()
    assert not any(each in told for each in ("norm_refused", "sum_contradicted", "sum_begun_anew"))


@pytest.mark.parametrize(("pieces", "sums"), [(1, "plain"), (3, "plain"), (4, "shares")])
def test_clipped_and_noisy_steps_of_phones_are_those_of_a_simulation(
    tmp_path: Path, pieces: int, sums: str
) -> None:
    (tmp_path / "own_model.py").write_text(WITHOUT_BATCH_NORM)
    model = f"{tmp_path / 'own_model.py'}:{'convolutional' if pieces == 1 else 'dense'}"
    values: dict[str, Any] = {"data": "digits", "model": model, "group": {"pieces": pieces}}
    values["training"] = {**TRAINING, "momentum": 0.9, "epochs": 1, "seed": 5, "kernels": "by_size"}
    values["training"] |= {"learning_rate": 0.1, "wire": "int8"}  # float32 travels in such steps
    values["privacy"] = {"noise": 0.5, "clip": 0.7, "sums": sums}
    _, off = compared(values, tmp_path)
    assert off.max() <= 1e-4
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert not any("loss" in row for row in rows)
    account = spent_of(tmp_path / "run")
    dealt = [len(part) for part in np.array_split(np.arange(len(load_split("digits", "train"))), PHONES)]
    assert account.sample == pytest.approx(RunSpec.model_validate(values).budget.total(dealt, 1))


def test_two_triples_of_helpers_on_phones_are_those_of_a_simulation(tmp_path: Path) -> None:
    """Without kinks, whose other side a number that is rounded otherwise may take."""
    (tmp_path / "own_model.py").write_text(WITHOUT_BATCH_NORM)
    values: dict[str, Any] = {"data": "digits", "group": {"pieces": 7}}
    values["model"] = f"{tmp_path / 'own_model.py'}:dense"
    values["training"] = {**TRAINING, **HEAVY, "epochs": 1, "seed": 5, "kernels": "by_size"}
    values["privacy"] = {"sums": "shares", "first_layer": "shared"}
    _, off = compared(values, tmp_path, phones=7)
    assert off.max() <= 1e-4


def test_phones_begin_with_weights_that_they_drew_together(tmp_path: Path) -> None:
    """And resuming begins with the same ones."""
    values: dict[str, Any] = {"data": "digits", "model": MODEL, "group": {"pieces": 2}}
    values["training"] = {**TRAINING, "epochs": 1, "learning_rate": 1e-9, "kernels": "by_size"}
    values["privacy"] = {"first_weights": "joint"}
    prepared = prepare(RunSpec.model_validate(values), lambda event, fields: None)
    of_the_seed = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    shared = shared_model_of(prepared, 1)
    real = load_model_state(trained(prepared, 2, tmp_path))
    with RunFolder(tmp_path / "run", create=False) as folder:
        folder.open_shared(shared)
        assert JointWeights(prepared, folder, shared).beginning("run", []) is None
    drawn = state_of(prepared.graph, shared.model(), prepared.model.state_dict())
    linear = [name for name, value in drawn.items() if value.dim() == 2]
    assert linear
    for name in linear:
        assert float((real[name] - drawn[name]).abs().max()) < 1e-6
        assert float((real[name] - of_the_seed[name]).abs().max()) > 0.01
    told = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [(each["devices"], each["attempts"]) for each in told if each["event"] == "first_weights"] == [
        (2, 1)
    ]


def test_masked_sums_on_phones_are_those_of_a_simulation_and_nearly_those_in_the_clear(
    tmp_path: Path,
) -> None:
    values: dict[str, Any] = {"data": "digits", "model": MODEL, "group": {"pieces": PHONES}}
    values["training"] = {**TRAINING, **HEAVY, "epochs": 1, "seed": 5, "kernels": "by_size"}
    values["privacy"] = {"sums": "masked"}
    masked, off = compared(values, tmp_path / "masked")
    assert off.max() <= 3e-4  # a sum beside a step's middle may be rounded to the other side
    plain, _ = compared({**values, "privacy": {}}, tmp_path / "plain")
    assert 0 < max(float((x - plain[name]).abs().max()) for name, x in masked.items()) <= 1e-3


def compared(values: dict[str, Any], folder: Path, phones: int = PHONES) -> tuple[dict[str, Any], np.ndarray]:
    """Train on phones and in a simulation; return the phones' weights and how far the simulated ones are."""
    spec = RunSpec.model_validate(values)
    prepared = prepare(spec, lambda event, fields: None)
    real = load_model_state(trained(prepared, phones, folder))

    data = load_split("digits", "train")
    dealt = np.array_split(np.random.default_rng(5).permutation(len(data)), phones)
    described = as_simulation(spec, phones, prepared.micro_batch)
    setting = simulated(described, data, load_split("digits", "test"), dealt)
    state = run(setting, InProcess(setting.workload))
    expected = unflatten(global_weights(setting, state), prepared.model.state_dict())
    floats = {name: value for name, value in real.items() if value.is_floating_point()}
    off = np.concatenate([(value - expected[name]).abs().numpy().ravel() for name, value in floats.items()])
    return floats, off
