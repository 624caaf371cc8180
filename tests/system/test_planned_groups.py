"""Planned groups hold what was planned for them, whatever their sizes and the order of the phones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import FleetError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import GroupPlan, Plan, save_plan
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.runs.groups import groups_of
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec

from .sockets import train_on_sockets

pytestmark = pytest.mark.system
MODEL = "mlp:64-12-10"
SIZE = 2


@pytest.fixture(scope="module")
def graph() -> NeuronGraph:
    return neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)


def planned(graph: NeuronGraph, strong: list[str], weak: list[str]) -> Plan:
    """Groups of two, of which the weak afford neither the dominator's piece nor its turn."""
    rates = {"macs_per_second": 1e8}
    kinds = [
        {"name": "strong", "devices": strong, "samples": 400, **rates},
        {"name": "weak", "devices": weak, "samples": 0, "max_macs": 2500, **rates},
    ]
    fleet = Fleet.model_validate({"class": kinds})
    return plan_fleet(graph, fleet, Training(), group_size=SIZE, seconds=5, compare=False).plan


def configured(folder: Path, plan: Plan) -> RunSpec:
    save_plan(plan, folder / "plan.json")
    values: dict[str, Any] = {
        "data": "digits",
        "model": MODEL,
        "group": {"plan": folder / "plan.json"},
        "training": {"epochs": 1, "batch": 32, "kernels": "by_size"},
    }
    return RunSpec.model_validate(values)


def prepared(folder: Path, plan: Plan) -> Prepared:
    return prepare(configured(folder, plan), lambda event, fields: None)


def test_a_phone_in_the_fleet_s_order_takes_its_own_place(graph: NeuronGraph, tmp_path: Path) -> None:
    plan = planned(graph, ["s1", "s2"], ["w1", "w2"])
    assert [group.devices for group in plan.groups] == [("s1", "w1"), ("s2", "w2")]
    assert list(plan.seats) == ["s1", "s2", "w1", "w2"]
    for settings, group in zip(groups_of(prepared(tmp_path, plan), 4), plan.groups, strict=True):
        assert settings.turns == tuple(tuple(plan.seats[d] for d in turn.devices) for turn in group.turns)


@pytest.mark.parametrize("sizes", [(4, 3), (2, 3, 2)])
def test_uneven_groups_keep_their_turns(graph: NeuronGraph, tmp_path: Path, sizes: tuple[int, ...]) -> None:
    plan, names = planned(graph, ["s1", "s2"], ["w1", "w2"]), iter("abcdefg")
    groups = []
    for size in sizes:
        devices = tuple(next(names) for _ in range(size))
        turn = replace(plan.groups[0].turns[0], devices=devices[: len(plan.pieces)])
        groups.append(GroupPlan(devices, (turn,)))
    ready = prepared(tmp_path, replace(plan, groups=tuple(groups)))
    found = groups_of(ready, 7)
    assert tuple(settings.devices for settings in found) == sizes
    assert [settings.turns[0][0] for settings in found] == [sum(sizes[:k]) for k in range(len(sizes))]
    with pytest.raises(FleetError, match="the plan is for 7 devices, the fleet has 6"):
        groups_of(ready, 6)


@pytest.mark.parametrize(("names", "strangers"), [("3021", 0), ("321x", 2)])
async def test_devices_hold_what_was_planned_for_their_names(
    graph: NeuronGraph, tmp_path: Path, names: str, strangers: int
) -> None:
    """Whoever the plan does not name stands in for somebody, and that is told."""
    order = [f"device-{name}" for name in names]
    plan = planned(graph, order[:2], order[2:])
    plan = replace(plan, groups=tuple(replace(group, turns=group.turns[:1]) for group in plan.groups))
    server, events = await train_on_sockets(tmp_path, configured(tmp_path, plan), len(names))
    assert [group.phase for group in server.groups] == ["done", "done"]
    stood = [fields for event, fields in events if event == "stands_in"]
    assert len(stood) == strangers
    if not strangers:
        held = {tuple(fields["holders"]) for event, fields in events if event == "assigned"}
        assert held >= {turn.devices for group in plan.groups for turn in group.turns}
