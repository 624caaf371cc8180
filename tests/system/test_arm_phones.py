"""Virtual phones of ARM run the bundle that a real phone would run, and end in the weights of plain SGD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_device.program.kernels import KernelChoice
from crowdlearn_host.adb.deployment import runtimes
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .over_adb import trained
from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES = 2
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-24-10",
    "group": {"pieces": 2},
    "training": {
        "epochs": 1,
        "batch": 128,
        "micro_batch": 64,
        "learning_rate": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "wire": "float32",
    },
}


def test_training_on_arm_equals_unsliced_sgd(
    tmp_path: Path, arm_bundle: Bundle, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtimes, "cache_home", lambda: bundles.parent)
    prepared = prepare(RunSpec.model_validate(CONFIG), lambda event, fields: None)
    run = trained(prepared, PHONES, tmp_path, machine="arm64")
    deployed = [event for event in read_lines(run / "events.jsonl") if event["event"] == "deployed"]
    sent = arm_bundle.python.packed + arm_bundle.device.packed
    assert [event["bytes"] > sent for event in deployed] == [True] * PHONES
    chosen = [KernelChoice.from_json(file.read_text()) for file in tmp_path.rglob("*.kernels")]
    assert chosen
    assert all(choice == KernelChoice("arm64-v8a", True) for choice in chosen)  # no seconds of an emulator
    expected, losses = unsliced(CONFIG, PHONES, torch.float32)
    metrics = list(read_lines(run / "metrics.jsonl"))
    assert [m["loss"] for m in metrics] == pytest.approx(losses, rel=1e-3)
    state = load_model_state(run)
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            difference = float((state[name] - value).abs().max() / value.abs().max())
            assert difference <= 1e-4, f"{name} differs by {difference:.1e}"
