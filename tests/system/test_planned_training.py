"""Plans for unequal phones, trained for real: the arithmetic of plain SGD, the bytes that were foretold."""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_device.schedule import dominator_order, mini_batches, pass_order
from crowdlearn_host import phones
from crowdlearn_host.planner.costs import Training
from crowdlearn_host.planner.fleet import Fleet
from crowdlearn_host.planner.plan import Plan, save_plan
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.wire import wire_format
from crowdlearn_host.server.run_folder import load_model_state, read_lines
from crowdlearn_host.training.config import TrainConfig
from crowdlearn_host.training.data import deal, load_split
from crowdlearn_host.training.prepare import Prepared, prepare
from crowdlearn_host.training.run import new_run, train
from torch import nn

pytestmark = pytest.mark.system
PHONES, BATCH, MICRO = 4, 32, 16


@dataclass(frozen=True)
class Case:
    """A model, the shape of its samples, and the MACs that stronger and weaker phones can afford."""

    model: str
    shape: tuple[int, ...]
    high: int
    low: int


CASES = {
    "dense": Case("mlp:64-48-96-24-10", (64,), 16_000, 11_000),
}


@dataclass(frozen=True)
class Run:
    prepared: Prepared
    untrained: nn.Module
    plan: Plan
    folder: Path


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One epoch of a planned group of two strong and two weak phones."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    settings = {"epochs": 1, "batch": BATCH, "micro_batch": MICRO, "learning_rate": 0.05, "momentum": 0.0}
    wanted = {
        "name": request.param,
        "data": "digits",
        "model": case.model,
        "input_shape": case.shape,
        "training": settings,
        "group": {"rotation": "full"},
    }
    first = prepare(TrainConfig.model_validate(wanted), folder, lambda event, fields: None)
    samples = len(load_split("digits", "train")) // PHONES
    kinds = [
        {"name": name, "count": 2, "samples": samples, "macs_per_second": 1e8, "max_macs": cap}
        for name, cap in (("high", case.high), ("low", case.low))
    ]
    training = Training(BATCH, MICRO, wire=wire_format("float32"))
    fleet = Fleet.model_validate({"class": kinds})
    plan = plan_fleet(first.graph, fleet, training, group_size=PHONES, seconds=10, compare=False).plan
    save_plan(plan, folder / "plan.json")
    wanted["group"] = {"plan": "plan.json", "rotation": "full"}
    prepared = prepare(TrainConfig.model_validate(wanted), folder, lambda event, fields: None)
    untrained = copy.deepcopy(prepared.model)
    with (
        phones.running(PHONES, folder / "home") as started,
        new_run(folder / "run", "", prepared, folder) as opened,
    ):
        serials = [phone.serial for phone in started]
        asyncio.run(train(prepared, serials, opened, lambda event, fields: None))
    return Run(prepared, untrained, plan, folder / "run")


def test_training_a_plan_equals_plain_sgd(run: Run) -> None:
    settings = run.prepared.config.training
    model = run.untrained.to(torch.float64)
    sgd = torch.optim.SGD(model.parameters(), settings.learning_rate)
    parts = deal(load_split("digits", "train"), PHONES, settings.seed)
    losses = []
    for device in dominator_order(range(PHONES), seed=settings.seed, epoch=0):
        data = parts[device].shaped(run.prepared.config.input_shape or ())
        permutation = pass_order(len(data), seed=settings.seed, epoch=0, device=device)
        for batch in mini_batches(len(data), BATCH):
            sgd.zero_grad()
            for micro in mini_batches(len(batch), MICRO):
                rows = permutation[batch.start + micro.start : batch.start + micro.stop]
                out = model(torch.from_numpy(data.inputs[rows]).to(torch.float64))
                labels = torch.from_numpy(data.labels[rows])
                loss = nn.functional.cross_entropy(out, labels, reduction="sum") / len(batch)
                loss.backward()
                losses.append(loss.item())
            sgd.step()
    measured = sum(m["loss"] for m in read_lines(run.folder / "metrics.jsonl"))
    assert len(run.plan.pieces) >= 3
    assert measured == pytest.approx(sum(losses), rel=1e-4)
    trained = load_model_state(run.folder)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(trained[name], value, rtol=1e-3, atol=1e-4)


def test_sums_and_errors_take_the_bytes_that_were_planned(run: Run) -> None:
    assert run.plan.traffic is not None
    planned = run.plan.traffic.forward + run.plan.traffic.backward
    *_, last = read_lines(run.folder / "metrics.jsonl")
    assert last["bytes"]["activation"] + last["bytes"]["error"] == pytest.approx(planned, rel=0.02)
