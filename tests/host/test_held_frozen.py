"""`training.frozen`: runs and simulations have the same rounded weights, and say what rounding costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import hold_frozen
from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.neuron_graph import FrozenAs
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


def run(model: str, frozen: str = "float16", **training: Any) -> RunSpec:
    values = {"model": model, "data": "digits", "input_shape": [1, 8, 8], "group": {"pieces": 2}}
    return RunSpec.model_validate({**values, "training": {"frozen": frozen, **training}})


@pytest.mark.parametrize(("frozen", "taken"), [("float16", 144), ("int8", 72 + 4)])
def test_a_run_and_its_simulation_have_the_same_rounded_weights(model: str, frozen: str, taken: int) -> None:
    checked = check(run(f"{model}:build", frozen))
    kernel = checked.model.get_parameter(KERNEL)
    first = build_model(f"{model}:build", 0).get_parameter(KERNEL).detach()
    codes, *spacings = HELD[frozen].encoded(first.transpose(0, 1).contiguous())
    assert torch.equal(kernel, HELD[frozen].decoded(codes, *spacings).transpose(0, 1))
    assert not torch.equal(kernel, first)
    assert checked.graph.frozen_as == frozen
    assert checked.rounding.startswith(
        f"frozen weights as {frozen} take {taken} bytes in place of 288; scores of"
    )
    values = {"model": f"{model}:build", "devices": 2, "group": 2, "training": {"frozen": frozen}}
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


def test_a_way_to_hold_weights_that_there_is_not_is_refused_by_name(model: str) -> None:
    with pytest.raises(ConfigError, match=r"held as bfloat16: NumPy .* choose float16"):
        run(f"{model}:build", "bfloat16")


@pytest.mark.parametrize(("frozen", "less"), [("float16", 144), ("int8", 3 * 72 - 4)])
def test_the_planner_counts_the_memory_of_narrow_weights(model: str, frozen: FrozenAs, less: int) -> None:
    built = build_model(f"{model}:build", 0)
    graph = neuron_graph(built, torch.zeros(2, 1, 8, 8))
    request = PlanRequest.of(run(f"{model}:build", frozen))
    assert request.frozen == frozen
    full, half = (costs(each, Training()) for each in (graph, hold_frozen(graph, built, frozen)))
    saved = [a.state - b.state for a, b in zip(full.memory.bundles, half.memory.bundles, strict=True)]
    assert sum(n * each for n, each in zip(full.neurons, saved, strict=True)) == less
    sent = [a.state - b.state for a, b in zip(full.each, half.each, strict=True)]
    assert sum(n * each for n, each in zip(full.neurons, sent, strict=True)) == less
