"""A training configuration that needs more than its plan was reckoned with, where the fleet has caps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.plan import BudgetUse, GroupPlan, Plan, load_plan, plan_from_counts, save_plan
from crowdlearn_host.planner.problem.costs import Training
from crowdlearn_host.planner.problem.wire_format import wire_format
from crowdlearn_host.runs.checks.affordable import check_affordable, memory_of, unlike_planned
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from typer.testing import CliRunner

MODEL = "mlp:64-12-10"
GRAPH = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
PLANNED = Training(micro_batch=16, momentum=False, theta=1.0, wire=wire_format("int8"))
FLEET = """
[[class]]
name = "phone"
count = 4
samples = 300
macs_per_second = 1e9
"""


def plan(caps: tuple[str, ...] = ("memory", "uplink")) -> Plan:
    uses = tuple(BudgetUse(name, "B", 1.0, 2.0) for name in caps)
    even = plan_from_counts(GRAPH, [[64, 0, 10], [0, 12, 0]])
    pieces = tuple(replace(piece, budgets=uses) for piece in even.pieces)
    return replace(even, pieces=pieces, micro_batch=16, training=PLANNED)


def configured(training: dict[str, Any], theta: float = 1.0, plan: str | Path = "plan.json") -> RunSpec:
    values = {"data": "digits", "model": MODEL, "group": {"plan": plan}, "sharing": {"theta": theta}}
    return RunSpec.model_validate({**values, "training": {"momentum": 0.0, **training}})


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"momentum": 0.9}, "training.momentum is 0.9, .* --momentum"),
        (
            {"optimizer": "adam", "learning_rate": 0.01},
            "training.optimizer is adam, the plan's memory is that of sgd; .* --optimizer adam",
        ),
        ({"batch": 64}, "training.batch is 64, the plan's memory is that of 32; .* --batch 64"),
        ({"batch": 2048, "in_flight": 64}, "--batch 2048"),
        ({"wire": "float32"}, "training.wire is float32, .* --wire float32"),
    ],
)
def test_what_needs_more_than_was_planned_is_refused(
    tmp_path: Path, training: dict[str, Any], words: str
) -> None:
    save_plan(plan(), tmp_path / "plan.json")
    with pytest.raises(ConfigError, match=words):
        prepare(configured(training, plan=tmp_path / "plan.json"), lambda event, fields: None)


def test_more_micro_batches_in_flight_are_refused_where_the_mini_batch_has_them() -> None:
    large = replace(plan(), training=replace(PLANNED, batch=2048))
    check_affordable(large, configured({"batch": 2048}), 16)
    with pytest.raises(ConfigError, match=r"training.in_flight is 64, .* lower it to 32"):
        check_affordable(large, configured({"batch": 2048, "in_flight": 64}), 16)


def test_programs_that_take_more_memory_than_was_planned_are_refused() -> None:
    least = replace(plan(), training=replace(PLANNED, memory="least"))
    training = configured({}).training
    assert (memory_of(training, least), memory_of(training, plan())) == ("least", "fastest")
    check_affordable(least, configured({}), 16)
    check_affordable(plan(), configured({"memory": "balanced"}), 16)
    with pytest.raises(ConfigError, match=r"training.memory is balanced, .* that of least; leave it out"):
        check_affordable(least, configured({"memory": "balanced"}), 16)


def test_frozen_weights_are_held_as_planned() -> None:
    halved = replace(plan(), training=replace(PLANNED, frozen="float16"))
    check_affordable(halved, configured({"frozen": "float16"}), 16)
    check_affordable(plan(), configured({"frozen": "float16"}), 16)
    with pytest.raises(ConfigError, match=r"training.frozen is float32, .* float16; set it to float16"):
        check_affordable(halved, configured({}), 16)


def test_a_copy_for_groups_that_share_a_part_is_planned_or_refused() -> None:
    group = GroupPlan(("a", "b"), ())
    groups = replace(plan(), groups=(group, replace(group, devices=("c", "d"))))
    check_affordable(groups, configured({}), 16)
    check_affordable(replace(groups, groups=(group,)), configured({}, theta=0.5), 16)
    with pytest.raises(ConfigError, match=r"sharing.theta is 0.5, .* --theta 0.5"):
        check_affordable(groups, configured({}, theta=0.5), 16)


@pytest.mark.parametrize("known", [plan(()), replace(plan(), training=None)], ids=["no caps", "an old plan"])
def test_where_nothing_is_capped_or_known_nothing_is_refused(known: Plan) -> None:
    check_affordable(known, configured({"momentum": 0.9, "batch": 64, "wire": "float32"}, theta=0.5), 16)


def test_a_run_that_is_not_what_was_planned_is_told_of_each_setting() -> None:
    known = plan(())
    assert unlike_planned(known, configured({"wire": "int8"}), 16) == ""
    assert unlike_planned(replace(known, training=None), configured({"batch": 64}), 16) == ""
    other = unlike_planned(known, configured({"batch": 64, "wire": "float32", "momentum": 0.9}), 8)
    told = "training.batch 64 for 32, training.micro_batch 8 for 16, training.wire float32 for int8"
    assert f"training.momentum some for none, {told}" in other


def test_what_is_planned_by_default_is_what_is_trained_by_default(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    arguments = ["plan", MODEL, "--fleet", str(tmp_path / "fleet.toml"), "--no-baselines"]
    saved = tmp_path / "plan.json"
    found = CliRunner().invoke(build(["plan"]), [*arguments, "--save", str(saved)], catch_exceptions=False)
    assert found.exit_code == 0
    usual = RunSpec.model_validate({"data": "digits", "model": MODEL})
    told = load_plan(saved, GRAPH)
    assert told.training is not None
    caps = (BudgetUse("memory", "B", 1.0, 2.0), BudgetUse("uplink", "B", 1.0, 2.0))
    capped = replace(told, pieces=tuple(replace(piece, budgets=caps) for piece in told.pieces))
    rows = usual.training.micro_rows(told.micro_batch)
    check_affordable(capped, usual, rows)
    assert unlike_planned(capped, usual, rows) == ""
