"""A phone that gets hot and cools while it trains is told of, and what it spends is counted all the while."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.errors import Interrupted
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.report.page import page
from crowdlearn_host.report.run import read_run
from crowdlearn_host.runs.folder import new_run
from crowdlearn_host.runs.interrupt import Interrupt
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

pytestmark = pytest.mark.system
MODEL, SAMPLES, BATCH = "mlp:64-24-10", 700, 64
SEVERE = 3
EPOCHS = 1000
"""More than there is time for: the run is stopped as soon as everything has been told."""


def test_a_phone_that_throttles_during_a_run_is_told_and_its_joules_are_counted(tmp_path: Path) -> None:
    with phones.running(2, tmp_path / "home", link=phones.LinkModel(50, 50, 20)) as crowd:
        hot = crowd[1]
        interrupt = Interrupt()
        asked: list[asyncio.Task[None]] = []

        async def set_status(status: int) -> None:
            async with await AdbDevice.connect(hot.serial) as device:
                (await device.shell(f"cmd thermalservice override-status {status}")).check("override-status")

        def on_event(event: str, fields: dict[str, Any]) -> None:
            if event == "progress" and fields["boundary"] == 2:
                asked.append(asyncio.get_running_loop().create_task(set_status(SEVERE)))
            elif event == "throttled":
                asked.append(asyncio.get_running_loop().create_task(set_status(0)))
            elif event == "cooled":
                interrupt.ask()

        prepared = prepare(_spec(tmp_path, [phone.name for phone in crowd]), lambda event, fields: None)
        run = tmp_path / "run"
        with new_run(run, "", prepared, tmp_path) as opened, pytest.raises(Interrupted):
            serials = [phone.serial for phone in crowd]
            asyncio.run(train(prepared, serials, opened, on_event, interrupt=interrupt))
    assert [task.exception() for task in asked] == [None, None]
    told = [line for line in read_lines(run / "events.jsonl") if line["event"] in ("throttled", "cooled")]
    assert [(line["event"], line["device"]) for line in told] == [
        ("throttled", hot.name),
        ("cooled", hot.name),
    ]
    assert told[0]["status"] == "severe"
    loaded = read_run(run)
    assert "throttled" in page(loaded)
    assert any(
        each.joules > 0 for each in loaded.spent if (each.device, each.purpose) == (hot.name, "compute")
    )
    times = [line["time"] for line in read_lines(run / "metrics.jsonl")]
    assert any(told[0]["time"] < time < told[1]["time"] for time in times)  # it went on while it was hot
    assert loaded.joules.keys() == {phone.name for phone in crowd}


def _spec(folder: Path, names: list[str]) -> RunSpec:
    """A run of both phones whose plan knows what they spend."""
    kind = {
        "name": "phone",
        "devices": names,
        "samples": SAMPLES,
        "macs_per_second": 1e8,
        "max_macs": 3500,
        "joules_per_mac": 4e-9,
        "joules_per_byte_sent": 2.3e-6,
        "joules_per_byte_received": 1.1e-6,
    }
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64))
    training = Training(BATCH, BATCH, momentum=True, rotation="full")
    fleet = Fleet.model_validate({"class": [kind]})
    plan = plan_fleet(graph, fleet, training, group_size=2, seconds=5, compare=False).plan
    save_plan(plan, folder / "plan.json")
    return RunSpec.model_validate(
        {
            "name": "hot",
            "data": "digits",
            "model": MODEL,
            "group": {"plan": folder / "plan.json"},
            "training": {"epochs": EPOCHS, "batch": BATCH, "micro_batch": BATCH, "kernels": "by_size"},
        }
    )
