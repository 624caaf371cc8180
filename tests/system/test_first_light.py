"""Virtual phones, reached over adb, train a sliced network: the whole path at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .over_adb import trained
from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES = 4
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-48-24-10",
    "group": {"pieces": 3},
    "training": {
        "epochs": 2,
        "batch": 32,
        "micro_batch": 16,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "wire": "float32",
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run on four virtual phones."""
    folder = tmp_path_factory.mktemp("first-light")
    config = RunSpec.model_validate(CONFIG)
    prepared = prepare(config, lambda event, fields: None)
    return trained(prepared, PHONES, folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_over_adb_equals_unsliced_sgd(run, dtype):
    expected, losses = unsliced(CONFIG, PHONES, dtype)
    metrics = list(read_lines(run / "metrics.jsonl"))
    assert [m["boundary"] for m in metrics] == list(range(1, len(losses) + 1))
    assert len(losses) >= 50
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-3, atol=1e-5)
    state = load_model_state(run)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            difference = float((state[name] - value).abs().max() / value.abs().max())
            assert difference <= 1e-4, f"{name} differs by {difference:.1e}"


def test_every_device_is_dominator_once_an_epoch(run):
    passes = [(e["epoch"], e["device"]) for e in read_lines(run / "events.jsonl") if e["event"] == "pass"]
    assert len(passes) == 2 * PHONES
    assert {epoch: sum(e == epoch for e, _ in set(passes)) for epoch in (0, 1)} == {0: PHONES, 1: PHONES}


def test_bytes_of_sums_and_errors_are_as_planned(run):
    evaluated = [e for e in read_lines(run / "events.jsonl") if e["event"] == "evaluated"]
    for epoch in evaluated:
        assert epoch["bytes_per_sample"] == pytest.approx(epoch["planned_bytes_per_sample"], rel=0.05)
        assert epoch["samples_per_second"] > 0


def test_the_run_folder_tells_everything(run):
    for name in ("config.toml", "plan.json", "environment.json", "run.db", "model.safetensors"):
        assert (run / name).exists()
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "epoch-001.safetensors",
        "epoch-002.safetensors",
    ]
    assert not list(run.rglob("*.partial"))
    evaluated = [e for e in read_lines(run / "events.jsonl") if e["event"] == "evaluated"]
    assert evaluated[-1]["test_accuracy"] > 0.9
