"""A plan's bytes and joules are the relay's, for every purpose, and nobody holds what it cannot afford."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import Plan, load_plan, read_plan
from crowdlearn_host.planner.triples.planned import owners_of
from crowdlearn_host.runs.results.joules import BESIDE, joules_by_device, spent_joules
from crowdlearn_host.spec.run_spec import RunSpec
from typer.testing import CliRunner

from .sockets import Events, train_on_sockets

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
FLEETS["energy is capped"] = """
        [[class]]
        name = "high"
        count = 2
        samples = 200
        macs_per_second = 1e8
        max_macs = 7000
        joules_per_mac = 4e-9
        joules_per_byte_sent = 2.3e-6
        joules_per_byte_received = 1.1e-6
        [[class]]
        name = "low"
        count = 4
        macs_per_second = 1e8
        joules_per_mac = 4e-9
        joules_per_byte_sent = 2.3e-6
        joules_per_byte_received = 1.1e-6
        battery_joules = 100
        battery_share = 0.001
    """
FLEETS["full rotation"] = FLEETS["not every device dominates"]
ON_SHARES_MODEL = "mlp:64-128-64-10"
WITHOUT_BATCH_NORM = """
from torch import nn

def dense():
    layers = nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 10)
    return nn.Sequential(*layers)
"""
ON_SHARES = """
        [[class]]
        name = "ann's"
        owner = "ann"
        count = 2
        samples = 200
        macs_per_second = 1e8
        [[class]]
        name = "phone"
        count = 3
        samples = 150
        macs_per_second = 1e8
    """
FLEETS["masked"] = FLEETS["not every device dominates"]
OPTIONS = {
    "masked": ["--sums", "masked"],
    "two groups": ["--group-size", "2"],
    "full rotation": ["--rotation", "full"],
}


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
        "sharing": {"synchronous": True},  # else a group that is first downloads nothing in the first round
        "privacy": {"sums": "masked" if name == "masked" else "plain"},
    }
    server, events = await train_on_sockets(tmp_path, RunSpec.model_validate(wanted), len(plan.seats))
    assert [group.phase for group in server.groups] == ["done"] * len(plan.groups)
    sent = server.traffic.by_purpose()
    for purpose, planned in plan.traffic.sent(EPOCHS).items():
        assert sent[purpose] == pytest.approx(planned, rel=0.02), (purpose, json.dumps(sent))
    kinds, names = plan.class_of, list(plan.seats)
    of_number = {number: name for name, number in plan.seats.items()}
    assigned = [fields for event, fields in events if event == "assigned"]
    assert assigned
    for fields in assigned:
        held = [names[int(device.removeprefix("device-"))] for device in fields["holders"]]
        for device, piece in zip(held, plan.pieces, strict=True):
            assert kinds[device].name in piece.classes
    for group in server.groups:
        for member in group.devices.values():
            assert member.samples == kinds[of_number[member.number]].samples
    _check_joules(plan, server, events)


@pytest.mark.parametrize("private", [False, True])
async def test_devices_on_shares_send_the_bytes_that_were_planned(tmp_path: Path, private: bool) -> None:
    (tmp_path / "fleet.toml").write_text(ON_SHARES)
    model, noise = ON_SHARES_MODEL, {}
    if private:
        (tmp_path / "own_model.py").write_text(WITHOUT_BATCH_NORM)
        model, noise = f"{tmp_path / 'own_model.py'}:dense", {"noise": 1.0, "clip": 0.01}
    saved = tmp_path / "plan.json"
    asked = [
        "plan",
        model,
        "--fleet",
        str(tmp_path / "fleet.toml"),
        "--sums",
        "shares",
        "--batch",
        "32",
        *(["--private", "--shape", "64"] if private else []),
    ]
    found = CliRunner().invoke(
        build(["plan"]), [*asked, "--first-layer", "shared", "--save", str(saved)], catch_exceptions=False
    )
    assert found.exit_code == 0, found.output
    plan = read_plan(saved)
    assert plan.traffic is not None
    wanted: dict[str, Any] = {
        "data": "digits",
        "model": model,
        "group": {"plan": saved},
        # Weights that stay near their first values are as long, encoded, as the plan takes them to be.
        "training": {"epochs": EPOCHS, "kernels": "by_size", "batch": 32, "learning_rate": 0.01},
        "privacy": {"sums": "shares", "first_layer": "shared", **noise},
    }
    server, events = await train_on_sockets(tmp_path, RunSpec.model_validate(wanted), len(plan.seats))
    assert server.groups[0].phase == "done"
    sent = server.traffic.by_purpose()
    for purpose, planned in plan.traffic.sent(EPOCHS).items():
        assert sent[purpose] == pytest.approx(planned, rel=0.02), (purpose, json.dumps(sent))
    owner, names = owners_of(plan.fleet), list(plan.seats)  # type: ignore[arg-type]
    for fields in (fields for event, fields in events if event == "assigned"):
        helpers = [names[int(device.removeprefix("device-"))] for device in fields["holders"][1:]]
        assert len({owner[device] for device in helpers}) == 3


def _check_joules(plan: Plan, server: Server, events: Events) -> None:
    """What each device spends is within 5 % of what was foretold, and within its cap."""
    kinds, names = plan.class_of, list(plan.seats)

    def planned_name(device: str) -> str:
        return names[int(device.removeprefix("device-"))]

    told = [{"time": float(place), "event": event, **fields} for place, (event, fields) in enumerate(events)]
    for line in told:
        line["holders"] = [planned_name(device) for device in line.get("holders", ())]
    traffic = [{**row, "device": planned_name(str(row["device"]))} for row in server.traffic.rows()]
    spent = spent_joules(plan, told, (line for line in told if line["event"] == "progress"), traffic)
    by_device = joules_by_device(spent, BESIDE)
    assert {foretold.device for foretold in plan.joules} == {n for n in names if kinds[n].power is not None}
    for foretold in plan.joules:
        measured = by_device.get(foretold.device, 0.0) / EPOCHS
        assert measured == pytest.approx(foretold.total, rel=0.05, abs=1e-6)
        limit = kinds[foretold.device].joules_limit
        assert limit is None or measured <= limit
