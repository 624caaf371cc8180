"""A cap on what followers re-identify is kept like any other: by the best plan, or with what would do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.losses.registry import make_loss
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError, InfeasiblePlan
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.infeasibility import least_leak
from crowdlearn_host.planner.plan import load_plan, save_plan
from crowdlearn_host.planner.planner import plan_fleet
from crowdlearn_host.planner.problem.costs import Training, WireFormat, costs
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.planner.problem.leaks import LeakCurve, Leaks
from crowdlearn_host.planner.problem.seats import group_problem
from crowdlearn_host.planner.solver.clock import Deadline
from crowdlearn_host.privacy.audit.audit import Auditor
from crowdlearn_host.privacy.audit.case import rehearsed_case
from crowdlearn_host.privacy.leaks.measured import Way, label_parts, leak_curves
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.data import load_split
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.spec.run_spec import RunSpec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from .conftest import fleet
from .test_certificate import GRAPH, sent

MODEL = "mlp:64-40-24-10"
NOTHING = LeakCurve()
PARTS = st.sampled_from([0.0, 0.1, 0.2, 0.4, 0.8, 1.0])


def leaks(first: list[float], second: list[float], limit: float) -> Leaks:
    """Leaks of the tiny network: of its hidden layers' neurons, from one on."""
    curves = (LeakCurve(tuple(range(1, 1 + len(y))), tuple(y)) for y in (first, second))
    return Leaks((NOTHING, *curves, NOTHING), limit)


def training(limits: Leaks | None) -> Training:
    return Training(8, 4, theta=0.5, wire=WireFormat(4, 20), leaks=limits)


def test_the_greater_of_two_measured_numbers_counts() -> None:
    curve = LeakCurve((1, 2, 4, 8), (0.01, 0.03, 0.2, 0.1))
    assert [curve.of(n) for n in (0, 1, 3, 4, 8)] == [0, 0.01, 0.2, 0.2, 0.2]
    assert curve.most(0.05) == 2
    assert curve.most(0.5) == 8
    assert curve.most(0.0) < 1


@st.composite
def capped(draw: st.DrawFn) -> tuple[Fleet, Leaks, int]:
    """Three to five devices of one or two classes, in one or two groups, and what their followers may see."""
    kinds: list[dict[str, Any]] = [
        {
            "name": "one",
            "count": draw(st.integers(3, 4)),
            "samples": 20,
            "max_macs": draw(st.integers(60, 150)),
        }
    ]
    if draw(st.booleans()):
        kinds.append({"name": "other", "count": 1, "samples": 0, "max_macs": draw(st.integers(45, 110))})
    first, second = sorted(draw(st.tuples(PARTS, PARTS, PARTS))), sorted(draw(st.tuples(PARTS, PARTS)))
    limit = draw(st.sampled_from([0.05, 0.1, 0.3, 0.5]))
    return fleet(*kinds), leaks(list(first), list(second), limit), draw(st.integers(1, 2))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(capped())
def test_no_division_that_keeps_to_the_cap_relays_less(case: tuple[Fleet, Leaks, int]) -> None:
    devices, limits, groups = case
    size = devices.size // groups
    best = sent(GRAPH, devices, training(limits), devices.size // size)
    try:
        plan = plan_fleet(GRAPH, devices, training(limits), group_size=size, seconds=10, compare=False).plan
    except InfeasiblePlan:
        assert best == float("inf")
        return
    for piece in plan.pieces[1:]:
        owned = piece.owned
        used = sum(n / curve.most(limits.limit) for n, curve in zip(owned, limits.curves, strict=True) if n)
        assert used <= 1 + 1e-9
    assert plan.certificate is not None
    assert plan.certificate.cost == pytest.approx(best)
    assert plan.certificate.bound <= best * (1 + 1e-9)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(capped())
def test_the_least_cap_that_would_do_is_told(case: tuple[Fleet, Leaks, int]) -> None:
    devices, limits, _ = case
    strict = replace(limits, limit=0.0)
    first = next(
        (
            level
            for level in strict.levels
            if sent(GRAPH, devices, training(replace(limits, limit=level)), 1) < float("inf")
        ),
        None,
    )
    priced = costs(GRAPH, training(strict))
    problem = group_problem(priced, training(strict), devices, 1)
    assert least_leak(problem, strict, Deadline.after(20)) == first


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[LeakCurve, ...]]:
    data, model = load_split("digits", "train"), build_model(MODEL, 0)
    graph = neuron_graph(model, torch.zeros(2, 64), MODEL)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found, cache = {}, tmp_path_factory.mktemp("leaks")
    for sums in ("plain", "masked"):
        way = Way(32, 0.05, 0.0, sums, 2)  # type: ignore[arg-type]
        found[sums] = leak_curves(model, graph, make_loss("cross_entropy"), data, way, cache)
        again = leak_curves(model, graph, make_loss("cross_entropy"), data, way, cache)
        assert again == found[sums]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    return found


def test_more_neurons_re_identify_more_and_masks_help_hidden_layers(
    curves: dict[str, tuple[LeakCurve, ...]],
) -> None:
    plain, masked = curves["plain"], curves["masked"]
    assert plain[0] == plain[3] == NOTHING
    assert plain[1] == masked[1]
    assert plain[1].of(1) < 0.05
    assert plain[1].of(40) > 0.95
    assert masked[2].of(1) < 0.5 * plain[2].of(1)


def test_convolutions_give_a_sample_away_by_one_map(tmp_path: Path) -> None:
    data = load_split("digits", "train").shaped((1, 8, 8), "digits")
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(256, 10),
    )
    graph = neuron_graph(model, torch.zeros(2, 1, 8, 8), "convolutional")
    way = Way(32, 0.05, 0.9, "plain", 2)
    found = leak_curves(model, graph, make_loss("cross_entropy"), data, way, tmp_path)
    assert found[1].of(1) > 0.9
    assert found[2].of(1) > 0.5


def planned_for(limit: float, known: tuple[LeakCurve, ...], macs: int, devices: int) -> Any:
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
    crowd = fleet({"name": "phone", "count": devices, "samples": 100, "max_macs": macs})
    told = Training(32, 32, theta=1.0, leaks=Leaks(known, limit))
    return plan_fleet(graph, crowd, told, group_size=devices, seconds=5, compare=False).plan


def test_the_audit_finds_no_more_than_a_plan_allows(
    curves: dict[str, tuple[LeakCurve, ...]], tmp_path: Path
) -> None:
    """What is capped is measured in the network as a whole; this attacks the very cut, message by message."""
    plan = planned_for(0.4, curves["plain"], 7_200, 10)
    assert len(plan.pieces) > 5
    save_plan(plan, tmp_path / "plan.json")
    values = {
        "data": "digits",
        "model": MODEL,
        "group": {"plan": str(tmp_path / "plan.json")},
        "training": {"batch": 32, "micro_batch": 32, "learning_rate": 0.05, "kernels": "by_size"},
        "privacy": {"max_leak": 0.4},
    }
    prepared = prepare(parse_config(values, RunSpec, "the test"), lambda event, fields: None)
    case = rehearsed_case(prepared, samples=120, own=300, epochs=1)
    auditor = Auditor(case, quick=True)
    found = auditor._first("follower", (1,), "interpolated")
    assert 0 < (found.reid or 0) <= 0.4
    assert auditor.of_hidden_layers().attack.endswith("it sees none")


def test_a_cap_that_no_plan_meets_is_refused_with_what_would_do(
    curves: dict[str, tuple[LeakCurve, ...]],
) -> None:
    with pytest.raises(InfeasiblePlan) as refused:
        planned_for(0.05, curves["plain"], 6_500, 5)
    told = str(refused.value)
    assert "max_leak 1 (limit 0.05)" in told
    assert "as dominator" in told
    assert "sums = 'shares'" in told


def test_labels_are_read_from_the_errors_of_every_layer_but_the_first(tmp_path: Path) -> None:
    """However few neurons a follower owns: so a cap on labels forbids a bundle, or does not."""
    data, model = load_split("digits", "train"), build_model(MODEL, 0)
    graph = neuron_graph(model, torch.zeros(2, 64), MODEL)
    given = model, graph, make_loss("cross_entropy"), data, Way(32, 0.05, 0.0, "plain", 2), tmp_path
    parts = label_parts(*given)
    assert parts == label_parts(*given)
    assert parts[2] == 1.0  # softmax minus one at the label
    assert 0.5 < parts[1] < 1.0
    assert parts[3] == 0.0
    budget = Leaks((NOTHING,) * 4, 1.0, labels=parts, label_limit=0.9).budget
    assert [each > 1 for each in budget.per_neuron] == [parts[0] > 0.9, False, True, False]
    with pytest.raises(ConfigError, match="labels that are classes"):
        label_parts(model, graph, make_loss("mse"), data, Way(32, 0.05, 0.0, "plain", 2), tmp_path)


def labels_of(limit: float, labels: tuple[float, ...], macs: int) -> Any:
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
    crowd = fleet({"name": "phone", "count": 4, "samples": 100, "max_macs": macs})
    told = Training(32, 32, theta=1.0, leaks=Leaks((NOTHING,) * 4, 1.0, labels=labels, label_limit=limit))
    return plan_fleet(graph, crowd, told, group_size=4, seconds=5, compare=False).plan


def test_a_cap_on_labels_keeps_followers_out_of_layers_or_is_told() -> None:
    labels = (0.0, 0.8, 1.0, 0.0)
    for piece in labels_of(0.9, labels, 8_000).pieces[1:]:
        assert piece.owned[2] == 0
    with pytest.raises(InfeasiblePlan, match=r"max_label_leak 0\.8 \(limit 0\.5\).*reads no labels"):
        labels_of(0.5, labels, 8_000)


def test_commands_measure_and_runs_refuse_other_plans(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        '[[class]]\nname = "phone"\ncount = 10\nsamples = 100\nmacs_per_second = 1e9\nmax_macs = 7200\n'
    )
    plan = ["plan", MODEL, "--fleet", str(tmp_path / "fleet.toml"), "--max-leak", "0.9", "--seconds", "3"]
    plan += ["--no-baselines", "--group-size", "10"]
    refused = CliRunner().invoke(build(["plan"]), plan)
    assert "give data, too" in str(refused.exception)
    saved = tmp_path / "plan.json"
    done = CliRunner().invoke(build(["plan"]), [*plan, "--data", "digits", "--save", str(saved), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["training"]["leaks"]["limit"] == 0.9
    assert any(budget["name"] == "leak" for budget in told["pieces"][1]["budgets"])
    graph = neuron_graph(build_model(MODEL, 0), torch.zeros(2, 64), MODEL)
    assert load_plan(saved, graph).training.leaks.limit == 0.9  # type: ignore[union-attr]

    def checked(limit: float, **group: Any) -> None:
        values = {"data": "digits", "model": MODEL, "group": group, "privacy": {"max_leak": limit}}
        check(parse_config(values, RunSpec, "the test"))

    checked(0.95, plan=str(saved))
    with pytest.raises(ConfigError, match=r"max_leak is 0\.5, the plan's 0\.9; plan again"):
        checked(0.5, plan=str(saved))
    with pytest.raises(ConfigError, match=r"max_leak is 0\.5, the plan's 1"):
        checked(0.5, pieces=4)
