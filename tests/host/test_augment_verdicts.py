"""doctor, plan, train and simulate know a run's augmentation: they refuse what does not fit in the same
words, before anything compiles, and plans count the memory that it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import crowdlearn
import numpy as np
import pytest
import torch
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import DataError
from crowdlearn_export.doctor import doctor as diagnosing
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.planner.problem.bundles import bundles
from crowdlearn_host.planner.problem.costs import Training, costs
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.memory import peak_memory
from crowdlearn_host.runs.checks.augmenting import augment_cost
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.planned import PlanRequest, plan_network
from crowdlearn_host.simulation.setting import prepare as prepare_simulation
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulation import SimulationConfig
from torch import nn

FLEET = {"class": [{"name": "phone", "count": 3, "samples": 60, "macs_per_second": 1e9}]}
MODELS = """
from torch import nn

def numbers():
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))

def codes():
    return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(512, 10))
"""


def described(folder: Path, model: str, augment: list[Any], **training: Any) -> RunSpec:
    (folder / "net.py").write_text(MODELS)
    values = {
        "model": f"{folder}/net.py:{model}",
        "data": "digits",
        "input_shape": [64],
        "group": {"pieces": 1},
        "training": {"augment": augment, "batch": 16, **training},
        "fleet": {"virtual": 3},
    }
    return parse_config(values, RunSpec, "the test")


def planned(spec: RunSpec) -> None:
    plan_network(PlanRequest.of(spec), parse_config(FLEET, Fleet, "the fleet"), seconds=0.5)


def simulated(spec: RunSpec) -> None:
    config = SimulationConfig.model_validate(
        {"model": spec.model, "devices": 3, "group": 3, "training": {"augment": ["flip"]}}
    )
    data = Dataset(np.zeros((60, 64), np.float32), np.arange(60) % 10)
    prepare_simulation(config, data, data, [np.arange(device, 60, 3) for device in range(3)])


@pytest.mark.parametrize("command", [crowdlearn.diagnose, planned, check, simulated])
def test_a_change_that_does_not_fit_is_refused_in_the_same_words(
    command: Callable[[RunSpec], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "compile_lowered", None)  # nothing compiles
    with pytest.raises(
        (ConfigError, DataError),
        match=r"flip takes maps .*and a sample here has shape \[64\]; leave flip out",
    ):
        command(described(tmp_path, "numbers", ["flip"]))


@pytest.mark.parametrize("command", [crowdlearn.diagnose, check])
def test_changes_of_codes_are_refused(command: Callable[[RunSpec], Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this model takes whole numbers"):
        command(described(tmp_path, "codes", ["noise"]))


def test_unknown_changes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mixup"):
        described(tmp_path, "numbers", ["mixup"])


def test_the_doctor_tells_what_changes_cost(tmp_path: Path) -> None:
    (note,) = crowdlearn.diagnose(described(tmp_path, "numbers", ["noise", "scale"])).notes
    assert note.startswith("augmentation (noise, scale): the dominator holds 0.0 MB more")


def test_a_change_takes_a_few_copies_of_a_mini_batch(tmp_path: Path) -> None:
    chain = described(tmp_path, "numbers", ["noise", {"kind": "scale", "most": 0.2}]).training.augment
    held = augment_cost(chain, (3, 32, 32), 64).bytes
    batch = 64 * 3 * 32 * 32 * 4
    assert 2 * batch <= held <= 6 * batch
    assert augment_cost((), (3, 32, 32), 64).bytes == 0


def test_a_plan_counts_the_memory_for_the_dominator_alone() -> None:
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    graph = neuron_graph(model, torch.zeros(2, 64))
    plain = Training(batch=16)
    least, more = (costs(graph, each).memory for each in (plain, replace(plain, fed_bytes=5e6)))
    neurons = [graph.layers[layers[0]].neurons for layers in bundles(graph)]
    follower = [0, *neurons[1:-1], 0]
    assert peak_memory(more, neurons) == peak_memory(least, neurons) + 5e6
    assert peak_memory(more, follower) == peak_memory(least, follower)
