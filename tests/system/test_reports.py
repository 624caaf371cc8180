"""Devices report no more of their samples than a run asks for, and train to the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.results.losses import EpochLoss
from crowdlearn_host.simulation.engine import run
from crowdlearn_host.simulation.partition import partition
from crowdlearn_host.simulation.setting import prepare
from crowdlearn_host.simulation.workers import InProcess
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulated
from crowdlearn_host.spec.simulation import AS_PHONES, PartitionConfig

from .sockets import Events, train_on_sockets

pytestmark = pytest.mark.system
DEVICES = 2


OWN = """
import torch

def best(scores, targets):
    return (scores.argmax(1) == targets).float()

def margin(scores, targets):
    right = scores.gather(1, targets.unsqueeze(1)).squeeze(1)
    return right - scores.mean(1)
"""


def spec(folder: Path, report: str) -> RunSpec:
    training = {"epochs": 1, "batch": 64, "learning_rate": 0.05, "kernels": "by_size", "wire": "float32"}
    values = {"data": "digits", "model": "mlp:64-12-10", "group": {"pieces": DEVICES}, "training": training}
    (own := folder / "own.py").write_text(OWN)
    metrics = {"report": report, "on_devices": [f"{own}:best", f"{own}:margin"]}
    return RunSpec.model_validate({**values, "metrics": metrics})


def in_simulation(wanted: RunSpec) -> dict[str, float]:
    """Return the means of devices' own metrics in the simulation of the same run."""
    train = load_split("digits", "train")
    dealt = partition(train.labels, DEVICES, PartitionConfig(kind="dealt"), wanted.training.seed)
    setting = prepare(simulated(wanted, DEVICES, AS_PHONES), train, load_split("digits", "test"), dealt)
    return run(setting, InProcess(setting.workload)).records[-1].device_metrics


async def trained(folder: Path, report: str) -> tuple[Events, dict[str, np.ndarray]]:
    wanted = spec(folder.parent, report)
    server, events = await train_on_sockets(folder, wanted, DEVICES)
    assert server.groups[0].phase == "done", server.groups[0].reason
    return events, {name: np.array(array) for name, array in server.shared.model().items()}


async def test_reports_of_passes_and_of_nothing_withhold_what_mini_batches_gave(tmp_path: Path) -> None:
    found = {r: await trained(tmp_path / r, r) for r in ("mini-batch", "pass", "nothing")}
    told = {
        report: [fields for event, fields in events if event == "progress"]
        for report, (events, _) in found.items()
    }
    assert len({tuple(fields["boundary"] for fields in each) for each in told.values()}) == 1
    assert all("loss" in fields for fields in told["mini-batch"])
    for fields in told["mini-batch"]:
        assert fields["own"]["best"] * fields["rows"] == pytest.approx(fields["correct"])
    assert told["mini-batch"][-1]["own"]["margin"] > told["mini-batch"][0]["own"]["margin"]
    assert {*told["pass"][-1]["own"]} == {"best", "margin"}
    passes = [fields for fields in told["pass"] if "loss" in fields]
    assert [fields["reported"] for fields in passes] == [719, 718]
    assert all(fields["pass_done"] for fields in passes)
    assert not any({"loss", "correct", "own"} & set(fields) for fields in told["nothing"])
    means = {report: loss(events) for report, (events, _) in found.items()}
    assert means["pass"] == pytest.approx(means["mini-batch"])
    assert means["nothing"] is None
    in_rounds = in_simulation(spec(tmp_path, "mini-batch"))
    rows = [fields["rows"] for fields in told["mini-batch"]]
    for name in ("best", "margin"):
        mean = np.average([fields["own"][name] for fields in told["mini-batch"]], weights=rows)
        assert in_rounds[name] == pytest.approx(mean, abs=1e-4)
    for _, model in found.values():
        for name, array in model.items():
            np.testing.assert_array_equal(array, found["mini-batch"][1][name])


def loss(events: Events) -> float | None:
    epochs = EpochLoss()
    for event, fields in events:
        epochs.take(event, fields)
    return epochs.mean(0)
