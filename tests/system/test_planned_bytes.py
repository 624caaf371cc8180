"""A plan's bytes are the relay's, for every purpose, and nobody holds what it cannot afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import load_plan
from crowdlearn_host.spec.run_spec import RunSpec
from typer.testing import CliRunner

from .sockets import train_on_sockets

pytestmark = pytest.mark.system
MODEL = "mlp:64-48-24-10"
EPOCHS = 2
FLEETS = {
    "not every device dominates": """
        [[class]]
        name = "high"
        count = 3
        samples = 200
        macs_per_second = 1e8
        max_macs = 7000
        [[class]]
        name = "low"
        count = 3
        macs_per_second = 1e8
        max_macs = 3000
    """,
    "every device dominates": """
        [[class]]
        name = "phone"
        count = 4
        samples = 150
        macs_per_second = 1e8
        max_macs = 8000
    """,
    "two groups": """
        [[class]]
        name = "phone"
        count = 4
        samples = 300
        macs_per_second = 1e8
    """,
}
FLEETS["full rotation"] = FLEETS["not every device dominates"]
OPTIONS = {"two groups": ["--group-size", "2"], "full rotation": ["--rotation", "full"]}


@pytest.mark.parametrize("name", FLEETS)
async def test_devices_send_the_bytes_that_were_planned(name: str, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEETS[name])
    arguments = ["plan", MODEL, "--fleet", str(tmp_path / "fleet.toml"), "--no-baselines"]
    saved = tmp_path / "plan.json"
    found = CliRunner().invoke(
        build(["plan"]),
        [*arguments, *OPTIONS.get(name, []), "--save", str(saved)],
        catch_exceptions=False,
    )
    assert found.exit_code == 0, found.output
    plan = load_plan(saved, neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL))
    assert plan.traffic is not None
    wanted: dict[str, Any] = {
        "data": "digits",
        "model": MODEL,
        "group": {"plan": saved},
        "training": {"epochs": EPOCHS, "kernels": "by_size"},
    }
    server, events = await train_on_sockets(tmp_path, RunSpec.model_validate(wanted), len(plan.seats))
    assert [group.phase for group in server.groups] == ["done"] * len(plan.groups)
    sent = server.traffic.by_purpose()
    for purpose, planned in plan.traffic.sent(EPOCHS).items():
        assert sent[purpose] == pytest.approx(planned, rel=0.02), (purpose, json.dumps(sent))
    kinds, names = plan.class_of, list(plan.seats)
    assigned = [fields for event, fields in events if event == "assigned"]
    assert assigned
    for fields in assigned:
        held = [names[int(device.removeprefix("device-"))] for device in fields["holders"]]
        for device, piece in zip(held, plan.pieces, strict=True):
            assert kinds[device].name in piece.classes
    for group in server.groups:
        for device in group.devices.values():
            assert device.samples == kinds[names[device.number]].samples
