"""Planned networks, trained for real: the arithmetic of plain SGD, the bytes that were foretold."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import load_model_state
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import Plan, save_plan
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import DEFAULT_WIRE, RunSpec
from torch import nn

from .over_adb import trained
from .unsliced import plain_sgd

pytestmark = pytest.mark.system
BATCH, MICRO, MOMENTUM = 32, 16, 0.5
NETWORKS = Path(__file__).with_name("small_networks.py")


@dataclass(frozen=True)
class Case:
    """A model, the shape of its samples, the MACs per sample that each phone can afford, and the wire."""

    model: str
    shape: tuple[int, ...]
    affords: tuple[int, ...]
    wire: str = "float32"


EXACT = {
    "dense": Case("mlp:64-48-96-24-10", (64,), (16_000, 16_000, 11_000, 11_000)),
    "frozen": Case(f"{NETWORKS}:pretrained", (1, 8, 8), (5_000, 5_000, 5_000)),
    "residual": Case(f"{NETWORKS}:residual", (1, 8, 8), (3_500, 3_500, 3_500)),
}
CASES = EXACT | {"default-wire": replace(EXACT["dense"], wire=DEFAULT_WIRE)}


@dataclass(frozen=True)
class Run:
    prepared: Prepared
    untrained: nn.Module
    plan: Plan
    folder: Path

    @property
    def phones(self) -> int:
        return len(self.plan.groups[0].devices)


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of one planned group."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    count = len(case.affords)
    wanted = {
        "name": request.param,
        "data": "digits",
        "model": case.model,
        "input_shape": case.shape,
        "group": {"plan": folder / "plan.json"},
        "training": {
            "epochs": 1,
            "batch": BATCH,
            "micro_batch": MICRO,
            "learning_rate": 0.05,
            "momentum": MOMENTUM,
            "wire": case.wire,
            "kernels": "by_size",
        },
    }
    kinds = [
        {"name": f"phone-{cap}", "count": case.affords.count(cap), "macs_per_second": 1e8, "max_macs": cap}
        for cap in dict.fromkeys(case.affords)
    ]
    samples = len(load_split("digits", "train")) // count
    fleet = Fleet.model_validate({"class": [kind | {"samples": samples} for kind in kinds]})
    training = Training(BATCH, MICRO, momentum=True, rotation="full", wire=wire_format(case.wire))
    graph = neuron_graph(build_model(case.model, 0), torch.zeros(2, *case.shape))
    plan = plan_fleet(graph, fleet, training, group_size=count, seconds=10, compare=False).plan
    save_plan(plan, folder / "plan.json")
    prepared = prepare(RunSpec.model_validate(wanted), lambda event, fields: None)
    untrained = copy.deepcopy(prepared.model)
    return Run(prepared, untrained, plan, trained(prepared, count, folder))


@pytest.mark.parametrize("run", EXACT, indirect=True)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_a_plan_equals_plain_sgd(run: Run, dtype: torch.dtype) -> None:
    model = copy.deepcopy(run.untrained)
    seats = run.plan.seats
    order = [seats[turn.devices[0]] for turn in run.plan.groups[0].turns]
    expected, losses = plain_sgd(model, run.prepared.config, run.phones, dtype, order)
    assert len(run.plan.pieces) >= 3
    measured = [m["loss"] for m in read_lines(run.folder / "metrics.jsonl")]
    assert measured == pytest.approx(losses, rel=1e-4)
    trained = load_model_state(run.folder)
    for name, value in expected.items():
        if name in run.prepared.graph.frozen:
            assert torch.equal(trained[name], run.untrained.state_dict()[name])
        elif not name.endswith("num_batches_tracked"):
            difference = float((trained[name] - value).abs().max() / value.abs().max())
            assert difference <= 1e-4, f"{name} differs by {difference:.1e}"


@pytest.mark.parametrize("run", CASES, indirect=True)
def test_sums_and_errors_take_the_bytes_that_were_planned(run: Run) -> None:
    assert run.plan.traffic is not None
    planned = run.plan.traffic.forward + run.plan.traffic.backward
    *_, last = read_lines(run.folder / "metrics.jsonl")
    assert last["bytes"]["activation"] + last["bytes"]["error"] == pytest.approx(planned, rel=0.02)
