"""`training.frozen`: runs and simulations have the same rounded weights, and say what rounding costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.problem.costs import Training, costs
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.planned import PlanRequest
from crowdlearn_host.simulation.setting import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig

MODEL = """
from torch import nn


def build():
    features = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(features.requires_grad_(False).eval(), nn.Linear(72, 10))


def learning():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
KERNEL = "0.0.weight"


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "transfer.py").write_text(MODEL)
    return f"{tmp_path}/transfer.py"


def run(model: str, **training: Any) -> RunSpec:
    values = {"model": model, "data": "digits", "input_shape": [1, 8, 8], "group": {"pieces": 2}}
    return RunSpec.model_validate({**values, "training": {"frozen": "float16", **training}})


def test_a_run_and_its_simulation_have_the_same_rounded_weights(model: str) -> None:
    checked = check(run(f"{model}:build"))
    kernel = checked.model.get_parameter(KERNEL)
    first = build_model(f"{model}:build", 0).get_parameter(KERNEL)
    assert torch.equal(kernel, first.half().float())
    assert not torch.equal(kernel, first)
    assert checked.graph.frozen_as == "float16"
    assert checked.rounding.startswith("frozen weights as float16 take 144 bytes in place of 288; scores of")
    values = {"model": f"{model}:build", "devices": 2, "group": 2, "training": {"frozen": "float16"}}
    train, test = (load_split("digits", split).shaped((1, 8, 8), split) for split in ("train", "test"))
    dealt = np.array_split(np.arange(len(train), dtype=np.int64), 2)
    setting = prepare(SimulationConfig.model_validate(values), train, test, dealt)
    assert set(kernel.detach().numpy().reshape(-1)) <= set(setting.initial)


def test_nothing_is_said_or_done_where_weights_are_held_as_they_are(model: str) -> None:
    checked = check(run(f"{model}:build", frozen="float32"))
    assert (checked.rounding, checked.graph.frozen_as) == ("", "float32")
    assert torch.equal(
        checked.model.get_parameter(KERNEL), build_model(f"{model}:build", 0).get_parameter(KERNEL)
    )


def test_where_nothing_is_frozen_or_helpers_compute_it_is_refused(model: str) -> None:
    with pytest.raises(UnsupportedModule, match=r"no weights .* frozen, .* leave training.frozen"):
        check(run(f"{model}:learning"))
    on_shares = run(f"{model}:build").model_dump() | {"privacy": {"sums": "shares"}, "group": {"pieces": 4}}
    with pytest.raises(ConfigError, match=r"training.frozen is for weights that no helper"):
        check(RunSpec.model_validate(on_shares))


def test_the_planner_counts_half_of_the_memory(model: str) -> None:
    built = build_model(f"{model}:build", 0)
    graph = neuron_graph(built, torch.zeros(2, 1, 8, 8))
    request = PlanRequest.of(run(f"{model}:build"))
    assert request.frozen == "float16"
    full, half = (costs(each, Training()) for each in (graph, hold_frozen(graph, built, "float16")))
    saved = [a.state - b.state for a, b in zip(full.memory.bundles, half.memory.bundles, strict=True)]
    assert sum(n * each for n, each in zip(full.neurons, saved, strict=True)) == 144
    assert full.each == half.each  # on the way a weight has as many bytes as before
