"""Phones that let mini-batches overlap compute what plain PyTorch computes by the definition of that."""

from __future__ import annotations

import copy
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
from .test_first_light import CONFIG
from .unsliced import unsliced

pytestmark = pytest.mark.system
PHONES = 3
EVERY = 7
"""Mini-batches between snapshots; a pass has 15."""


def test_stale_training_over_adb_equals_delayed_sgd(tmp_path: Path) -> None:
    values: dict[str, Any] = copy.deepcopy(CONFIG)
    values["training"] |= {"staleness": 1, "snapshot_every": EVERY, "micro_batch": 8, "kernels": "by_size"}
    prepared = prepare(RunSpec.model_validate(values), lambda event, fields: None)
    run = trained(prepared, PHONES, tmp_path)
    expected, losses = unsliced(values, PHONES, torch.float64)
    metrics = list(read_lines(run / "metrics.jsonl"))
    np.testing.assert_allclose([m["loss"] for m in metrics], losses, rtol=1e-3, atol=1e-5)
    state = load_model_state(run)
    synchronous, _ = unsliced(
        {**values, "training": {**values["training"], "staleness": 0}}, PHONES, torch.float64
    )
    apart = 0.0
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            scale = float(value.abs().max())
            assert float((state[name] - value).abs().max()) <= 1e-4 * scale, name
            apart = max(apart, float((synchronous[name] - value).abs().max()) / scale)
    assert apart > 0.01
