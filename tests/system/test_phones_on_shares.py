"""Virtual phones over adb train on shares, lose devices, and end in the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .over_adb import trained

pytestmark = pytest.mark.system
CONFIG: dict[str, Any] = {
    "name": "test",
    "data": "digits",
    "model": "mlp:64-40-24-20-10",
    "group": {"pieces": 4},
    "training": {"epochs": 1, "batch": 48, "learning_rate": 0.05, "momentum": 0.9, "kernels": "by_size"},
    "privacy": {"sums": "shares"},
}


def test_phones_on_shares_learn_as_in_the_clear(tmp_path: Path) -> None:
    runs = {}
    for sums in ("shares", "plain"):
        config = RunSpec.model_validate({**CONFIG, "privacy": {"sums": sums}})
        runs[sums] = trained(prepare(config, lambda event, fields: None), 4, tmp_path / sums)
    losses = {sums: [m["loss"] for m in read_lines(run / "metrics.jsonl")] for sums, run in runs.items()}
    assert len(losses["shares"]) == len(losses["plain"]) >= 28
    assert np.mean(losses["shares"][-8:]) <= np.mean(losses["plain"][-8:]) + 0.1
    states = {sums: load_model_state(run) for sums, run in runs.items()}
    assert states["shares"].keys() == states["plain"].keys()
