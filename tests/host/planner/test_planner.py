"""From a network and a fleet to a plan: affordable for everyone at every turn, and told as it is."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.errors import InfeasiblePlan, PlanError
from crowdlearn_host.models.named import mlp
from crowdlearn_host.planner import infeasibility as relax
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.infeasibility import MOST_WAYS, Stretch, relaxations
from crowdlearn_host.planner.plan import GroupPlan, Plan, Turn, check_plan, load_plan, save_plan
from crowdlearn_host.planner.planner import _even, plan_fleet
from crowdlearn_host.planner.problem.costs import Training, WireFormat, costs
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.memory import PROCESS_BYTES
from crowdlearn_host.planner.problem.places import caps_of
from crowdlearn_host.planner.problem.problem import Problem
from crowdlearn_host.planner.problem.rotations import Rotation
from crowdlearn_host.planner.problem.seats import group_problem
from pydantic_core import to_jsonable_python

from .conftest import fleet

TRAINING = Training(wire=WireFormat(4, 120))
HUB = {"name": "hub", "count": 1, "samples": 300, "max_macs": 2000}
MIXED = fleet(
    {"name": "high", "count": 3, "samples": 300, "max_macs": 2000},
    {"name": "mid", "count": 3, "max_macs": 300},
    {"name": "low", "count": 5, "max_macs": 120},
)
ONE_HUB = fleet(HUB, {"name": "low", "count": 9, "max_macs": 900})


def plan(graph: NeuronGraph, devices: Fleet, training: Training = TRAINING, **options: int | None) -> Plan:
    return plan_fleet(graph, devices, training, seconds=20, compare=False, **options).plan  # type: ignore[arg-type]


def test_a_fleet_in_which_each_affords_everything_needs_no_messages(graph: NeuronGraph) -> None:
    found = plan(graph, fleet({"name": "phone", "count": 4, "samples": 100}))
    assert len(found.pieces) == 1
    assert found.traffic is not None
    assert found.traffic.forward == found.traffic.backward == 0
    check_plan(found, graph)


@pytest.mark.parametrize("rotation", ["minimal", "full"])
def test_every_device_affords_every_piece_it_ever_holds(graph: NeuronGraph, rotation: str) -> None:
    training = replace(TRAINING, rotation=rotation)  # type: ignore[arg-type]
    found = plan(graph, MIXED, training, group_size=11)
    kind_of = {name: kind for kind in MIXED.classes for name in kind.names}
    assert len(found.pieces) == 3
    assert [turn.devices[0] for turn in found.groups[0].turns] == ["high-1", "high-2", "high-3"]
    for turn in found.groups[0].turns:
        assert len(set(turn.devices)) == len(found.pieces)
        for name, piece in zip(turn.devices, found.pieces, strict=True):
            assert piece.macs <= caps_of(kind_of[name]).macs


def test_minimal_rotation_moves_the_dominators_piece_and_little_else(graph: NeuronGraph) -> None:
    found = plan(graph, MIXED, group_size=11)
    turns = found.groups[0].turns
    for before, after in pairwise(turns):
        assert sum(a != b for a, b in zip(before.devices, after.devices, strict=True)) <= 2


def test_the_certificate_holds_for_what_the_plan_relays(graph: NeuronGraph) -> None:
    for devices in (MIXED, ONE_HUB):
        found = plan(graph, devices, group_size=devices.size)
        assert found.traffic is not None
        assert found.certificate is not None
        assert found.certificate.cost == found.traffic.total
        assert found.certificate.bound <= found.traffic.total * (1 + 1e-9)
    assert found.certificate.optimal


def test_a_deep_network_on_few_unlike_devices_is_planned_and_bounded() -> None:
    deep = neuron_graph(mlp((8, *[6] * 12, 4)), torch.zeros(1, 8), "deep")
    priced = costs(deep, TRAINING)
    hidden = sum(priced.each[b].macs * priced.neurons[b] for b in range(1, 13))
    dominator = sum(priced.each[b].macs * priced.neurons[b] for b in (0, 13))
    devices = fleet(
        {"name": "hub", "count": 1, "samples": 10, "max_macs": int(dominator)},
        {"name": "strong", "count": 1, "max_macs": int(0.85 * hidden)},
        {"name": "weak", "count": 1, "max_macs": int(0.3 * hidden)},
    )
    found = plan(deep, devices, group_size=3).certificate
    assert found is not None
    assert 0.9 * found.cost <= found.bound <= found.cost


def test_even_divisions_over_the_strongest_class_are_known_from_the_start(graph: NeuronGraph) -> None:
    low = {"name": "low", "count": 5, "max_macs": 120}
    devices = fleet(HUB, {"name": "high", "count": 3, "max_macs": 2000}, low)
    priced = costs(graph, TRAINING)
    known = _even(graph, priced, group_problem(priced, TRAINING, devices, 1))
    assert [division.seats for division in known[:2]] == [(0,), (0, 1, 1, 1)]
    assert len(known) == 3


def test_the_planner_chooses_groups_when_sharing_is_cheaper_than_one_group_s_messages(
    graph: NeuronGraph,
) -> None:
    kind = {"name": "phone", "count": 12, "samples": 2000, "max_macs": 2500}
    free = plan(graph, fleet(kind), replace(TRAINING, theta=0.0))
    assert free.traffic is not None
    for size in (12, 6, 4):
        fixed = plan(graph, fleet(kind), replace(TRAINING, theta=0.0), group_size=size)
        assert fixed.traffic is not None
        assert free.traffic.total <= fixed.traffic.total * (1 + 1e-9)


def test_plans_do_not_depend_on_the_order_of_equal_devices(graph: NeuronGraph) -> None:
    def fleet_of(names: list[str]) -> Fleet:
        return fleet(
            HUB | {"count": 0, "devices": names[:1]}, {"name": "low", "devices": names[1:], "max_macs": 900}
        )

    names = [f"phone-{k}" for k in range(8)]
    first = plan(graph, fleet_of(names), group_size=8)
    second = plan(graph, fleet_of([names[0], *reversed(names[1:])]), group_size=8)
    assert first.pieces == second.pieces
    assert first.traffic == second.traffic


@pytest.mark.parametrize("rotation", ["minimal", "full"])
@pytest.mark.parametrize("devices", [ONE_HUB, MIXED], ids=["one dominator", "several"])
def test_the_plan_is_never_worse_than_the_partitioners(
    graph: NeuronGraph, devices: Fleet, rotation: Rotation
) -> None:
    pytest.importorskip("pymetis")
    training = replace(TRAINING, rotation=rotation)
    planned = plan_fleet(graph, devices, training, group_size=devices.size, seconds=20)
    assert planned.baselines
    assert planned.plan.traffic is not None
    for baseline in planned.baselines:
        assert baseline.broken or planned.plan.traffic.total <= baseline.cost * (1 + 1e-9)


@pytest.mark.parametrize("cap", ["max_macs", "max_seconds", "max_memory", "max_uplink"])
def test_no_device_is_over_a_cap_at_any_turn_the_dominators_included(graph: NeuronGraph, cap: str) -> None:
    phones = {"name": "phone", "count": 5, "samples": 100}
    whole = plan(graph, fleet(phones), group_size=5).pieces[0]
    samples = 100 * 4 * graph.layers[0].neurons
    limit = {
        "max_macs": 0.9 * whole.macs,
        "max_seconds": 0.9 * whole.macs / 1e6,
        "max_memory": 0.9 * (whole.memory_bytes - PROCESS_BYTES) + PROCESS_BYTES + samples,
        "max_uplink": 300,
    }[cap]
    if cap == "max_uplink":
        phones["max_macs"] = int(0.9 * whole.macs)
    capped = phones | {cap: limit if cap == "max_seconds" else int(limit)}
    found = plan(graph, fleet(capped), group_size=5)
    assert len(found.pieces) > 1
    turns = found.groups[0].turns
    assert {turn.devices[0] for turn in turns} == set(found.groups[0].devices)
    for piece in found.pieces:
        used = {
            "max_macs": piece.macs,
            "max_seconds": piece.macs / 1e6,
            "max_memory": piece.memory_bytes + samples,
            "max_uplink": piece.uplink_bytes,
        }[cap]
        assert used <= limit


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (
            [{**HUB, "max_macs": 1900}, {"name": "low", "count": 9, "max_macs": 900}],
            "compute 1,932 MAC on hub",
        ),
        ([HUB, {"name": "low", "count": 3, "max_macs": 500}], "on low"),
        ([HUB, {"name": "dominator", "count": 3, "max_macs": 500}], "on dominator ("),
        ([{**HUB, "max_memory": "10 MB"}, {"name": "low", "count": 9}], "hub as dominator"),
        ([HUB, {"name": "low", "count": 9, "max_macs": 900, "max_uplink": 10}], "uplink"),
    ],
    ids=["dominator", "followers", "named dominator", "memory", "uplink"],
)
def test_an_infeasible_fleet_is_told_what_to_relax(
    graph: NeuronGraph, classes: list[dict[str, object]], words: str
) -> None:
    with pytest.raises(InfeasiblePlan) as error:
        plan(graph, fleet(*classes), group_size=None)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("memory", ["8 MiB", 161_000 * 160])
def test_samples_that_alone_take_the_memory_are_named(graph: NeuronGraph, memory: str | int) -> None:
    hub = {**HUB, "samples": 161_000, "max_memory": memory}
    with pytest.raises(InfeasiblePlan, match=r"class hub: its 161,000 samples alone take 25,760,000 B"):
        plan_fleet(graph, fleet(hub, {"name": "low", "count": 2, "max_macs": 900}), TRAINING, group_size=3)


def test_telling_why_nothing_fits_takes_no_longer_than_asked(
    graph: NeuronGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def slow(problem: Problem, seconds: float, only: tuple[int, str] | None = None) -> Stretch | None:
        asked.append(seconds)
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
        return relaxations(problem, 5.0, only)

    monkeypatch.setattr(relax, "relaxations", slow)
    classes = [{"name": f"low{k}", "count": 1, "max_macs": 80 + k} for k in range(12)]
    with pytest.raises(InfeasiblePlan, match="it would take"):
        plan_fleet(graph, fleet(HUB, *classes), TRAINING, group_size=13, seconds=0.5, compare=False)
    assert max(asked) <= 0.5
    assert len(asked) <= 3
    with pytest.raises(InfeasiblePlan) as error:
        plan_fleet(graph, fleet(HUB, *classes), TRAINING, group_size=13, seconds=60, compare=False)
    assert str(error.value).count(", or ") == MOST_WAYS - 1
    assert len(asked) <= 3 + MOST_WAYS + 1


def test_an_idle_device_that_is_too_small_is_not_told_to_grow(graph: NeuronGraph) -> None:
    tiny = {"name": "tiny", "count": 2, "max_memory": "8 MiB"}
    low = {"name": "low", "count": 9, "max_macs": 900}
    with pytest.raises(InfeasiblePlan, match="on hub as dominator") as error:
        plan(graph, fleet({**HUB, "max_macs": 1900}, low, tiny), group_size=12)
    assert "tiny" not in str(error.value)


def test_the_relaxation_that_is_told_is_enough(graph: NeuronGraph) -> None:
    with pytest.raises(InfeasiblePlan) as error:
        plan(graph, fleet(HUB, {"name": "low", "count": 3, "max_macs": 500}), group_size=4)
    *_, told = re.findall(r"compute ([\d,]+) MAC on low", str(error.value))
    needed = int(told.replace(",", "")) + 1
    relaxed = plan(graph, fleet(HUB, {"name": "low", "count": 3, "max_macs": needed}), group_size=4)
    assert max(piece.macs for piece in relaxed.pieces[1:]) > 500


def test_a_plan_survives_its_file(graph: NeuronGraph, tmp_path: Path) -> None:
    found = plan(graph, MIXED)
    save_plan(found, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json", graph) == found


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b'"pieces"', b'"peaces"', "pieces"),
        (b'"neurons":', b'"neurons":0,"n":', "neurons"),
        (b"{", b"", "write it anew"),
        (b'"devices"', b'"gadgets"', "devices"),
    ],
)
def test_a_damaged_plan_is_refused_in_one_line(
    graph: NeuronGraph, tmp_path: Path, before: bytes, after: bytes, words: str
) -> None:
    path = tmp_path / "plan.json"
    save_plan(plan(graph, MIXED), path)
    path.write_bytes(path.read_bytes().replace(before, after, 1))
    with pytest.raises(PlanError) as error:
        load_plan(path, graph)
    assert words in str(error.value)


TWO = GroupPlan(("a", "b"), (Turn(("a", "b")), Turn(("b", "a"))))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"micro_batch": -5}, "micro_batch is -5"),
        ({"staleness": -1}, "staleness is -1"),
        ({"rotation": "sideways"}, "rotation: Input should be 'full' or 'minimal'"),
        ({"groups": (replace(TWO, turns=(Turn(("b", "b")),)),)}, "one of the group for every piece"),
        ({"groups": (replace(TWO, devices=("a", "b", "a")),)}, "device a is named twice"),
        ({"groups": (TWO, TWO)}, "device a, b is named twice"),
        ({"groups": (TWO, GroupPlan((), ()))}, "group 1 has 0 devices"),
    ],
)
def test_a_plan_that_nobody_could_train_is_refused(
    graph: NeuronGraph, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "plan.json"
    save_plan(replace(balanced(graph, 2), groups=(TWO,)), path)
    load_plan(path, graph)
    path.write_bytes(json.dumps(json.loads(path.read_bytes()) | to_jsonable_python(change)).encode())
    with pytest.raises(PlanError, match=words):
        load_plan(path, graph)


def test_a_plan_for_another_network_is_refused(graph: NeuronGraph, tmp_path: Path) -> None:
    found = plan(graph, MIXED)
    save_plan(found, tmp_path / "plan.json")
    narrower = replace(
        graph, layers=(*graph.layers[:1], replace(graph.layers[1], neurons=23), *graph.layers[2:])
    )
    with pytest.raises(PlanError, match="plan again"):
        load_plan(tmp_path / "plan.json", narrower)


def test_costs_count_weights_once(graph: NeuronGraph) -> None:
    priced = costs(graph, Training(theta=1.0))
    weights = sum(n * each.state for n, each in zip(priced.neurons, priced.each, strict=True))
    buffers = 4 * sum(op.buffers for layer in graph.layers for op in layer.ops)
    assert weights == pytest.approx(4 * graph.parameters + buffers)
