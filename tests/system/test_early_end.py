"""Phones end early by the validation split, with the best epoch's weights, as a simulation of them does; and
they keep these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.prediction.model_folder import WEIGHTS
from crowdlearn_device.state.piece_state import PieceState
from crowdlearn_export.graph.weights import arrays_of
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.simulated import simulate_run
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulation_of

from .over_adb import trained

pytestmark = pytest.mark.system
EPOCHS = 30


def test_phones_end_early_with_the_weights_that_a_simulation_chooses(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": "mlp:64-12-10",
        "data": "digits",
        "group": {"pieces": 2, "keep_model": True},
        "training": {"epochs": EPOCHS, "batch": 256, "wire": "float32", "learning_rate": 0.5, "seed": 1},
        "validation": {"share": 0.1, "patience": 1},
        "fleet": {"virtual": 2},
    }
    spec = parse_config(values, RunSpec, "the test")
    told: list[tuple[str, Any]] = []
    simulate_run(simulation_of(spec), tmp_path / "simulated", lambda *event: told.append(event), Interrupt())
    prepared = prepare(spec, lambda *_: None)
    run = trained(prepared, 2, tmp_path)
    events = {event["event"]: event for event in read_lines(run / "events.jsonl")}
    assert events["chosen"]["epoch"] == told[-1][1]["epoch"] == events["enough"]["epoch"]
    assert events["epoch"]["epoch"] < EPOCHS - 1
    phones, expected = load_model_state(run), load_model_state(tmp_path / "simulated")
    off = max(float((value - expected[name]).abs().max()) for name, value in phones.items())
    assert off <= 1e-4
    chosen = arrays_of(prepared.graph, phones, prepared.plan.order)
    kept = [PieceState.from_bytes(file.read_bytes()) for file in tmp_path.rglob(f"models/run/{WEIGHTS}")]
    assert len(kept) == 2
    for state in kept:
        for arrays in state.layers.values():
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, chosen[name.removeprefix("value/")])
