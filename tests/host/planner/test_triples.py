"""Plans on shares: helpers of three owners beside every dominator, moved as seldom as can be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise, permutations, product
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError, InfeasiblePlan, PlanError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.helpers import with_helper_layers
from crowdlearn_host.planner.plan import GroupPlan, Turn, save_plan
from crowdlearn_host.planner.triples.needs import Network, over
from crowdlearn_host.planner.triples.planned import owners_of, traffic
from crowdlearn_host.planner.triples.sent import Held
from crowdlearn_host.planner.triples.turns import turns_of
from crowdlearn_host.privacy.audit.targets import prepared_of
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.planned import NetworkPlan, PlanRequest, plan_network
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from .conftest import fleet

MODEL = "mlp:64-48-24-10"
INFINITE = 1_000
JOULES = {
    "joules_per_mac": 1e-9,
    "joules_per_byte_sent": 1e-6,
    "joules_per_byte_received": 1e-6,
    "max_joules": 1.0,
}


def moves(turns: tuple[Turn, ...]) -> int:
    return sum(
        a != b
        for old, new in pairwise((*turns, turns[0]))
        for a, b in zip(old.devices[1:], new.devices[1:], strict=True)
    )


def fewest(pieces: int, dominators: list[str], able: list[set[str]], owner: dict[str, str]) -> int:
    """The fewest moves of any helpers in any places, or INFINITE: by every way round the turns."""
    here = sorted(owner)

    def fits(d: str, t: tuple[str, ...]) -> bool:
        triples = [t[k : k + 3] for k in range(0, len(t), 3)]
        apart = all(len({owner[x] for x in triple}) == 3 for triple in triples)
        return d not in t and apart and all(x in able[k] for k, x in enumerate(t))

    places = [[t for t in permutations(here, pieces) if fits(d, t)] for d in dominators]
    if not all(places):
        return INFINITE
    best = INFINITE
    for first in places[0]:
        cost = {first: 0}
        for own in places[1:]:
            cost = {
                t: min(c + sum(a != b for a, b in zip(s, t, strict=True)) for s, c in cost.items())
                for t in own
            }
        best = min(best, *(c + sum(a != b for a, b in zip(s, first, strict=True)) for s, c in cost.items()))
    return best


WEAK = 10
"""MACs of a class that can help in nothing."""


@st.composite
def groups(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Four or five devices, each a class: some dominate, some cannot help, and some have one owner."""
    found = []
    for k in range(draw(st.integers(4, 5))):
        kind: dict[str, Any] = {"name": f"phone-{k}", "count": 1, "owner": draw(st.sampled_from("abcde"))}
        kind["samples"] = 100 * (not k or draw(st.booleans()))
        if not kind["samples"] and not draw(st.integers(0, 4)):
            kind["max_macs"] = WEAK
        found.append(kind)
    return found


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(groups())
def test_no_other_triples_move_less(kinds: list[dict[str, Any]]) -> None:
    owner = {f"{kind['name']}-1": kind["owner"] for kind in kinds}
    dominators = [f"{kind['name']}-1" for kind in kinds if kind["samples"]]
    able = {f"{kind['name']}-1" for kind in kinds if "max_macs" not in kind}
    least = fewest(3, dominators, [able] * 3, owner)
    try:
        plan = planned(*kinds).plan
    except InfeasiblePlan:
        assert least == INFINITE
        return
    (group,) = plan.groups
    assert [turn.devices[0] for turn in group.turns] == dominators
    for turn in group.turns:
        assert len({*turn.devices}) == 4
        assert len({owner[device] for device in turn.devices[1:]}) == 3
        assert {*turn.devices[1:]} <= able
    assert moves(group.turns) == least
    assert plan.certificate is not None
    assert plan.certificate.bound <= plan.certificate.cost * (1 + 1e-9)


SMALL = "mlp:12-9-7-4"
"""With the first layer shared, helpers have a map of 12 neurons and one of 9."""


def divisions(whole: Mapping[int, int]) -> list[Held]:
    """Every division of two maps among one triple or two."""
    parts = [
        [n for n in range(total + 1) if n in (0, total) or 3 <= n <= total - 3] for total in whole.values()
    ]
    found: list[Held] = [(whole,)]
    for first in product(*parts):
        pair = [
            {layer: k for layer, k in zip(whole, counts, strict=True) if k}
            for counts in (first, [total - n for total, n in zip(whole.values(), first, strict=True)])
        ]
        if all(pair):
            found.append(pair)
    return found


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.floats(0.2, 1.1), st.floats(0.2, 1.1), st.integers(3, 5), st.integers(0, 3), st.booleans())
def test_no_other_division_sends_less(weak: float, other: float, many: int, few: int, ann: bool) -> None:
    request = PlanRequest(SMALL, (12,), batch=32, sums="shares", first_layer="shared")
    graph = neuron_graph(build_model(SMALL, 0), torch.zeros(2, 12), SMALL)
    training = plan_network(request, fleet({"name": "a", "count": 4, "samples": 90})).training
    helped = with_helper_layers(graph, first_layer=True)
    network = Network(graph, helped, replace(training, rotation="minimal", micro_batch=32), first_layer=True)
    whole = network.of_helper(network.whole[0]).compute
    crowd = fleet(
        {"name": "strong", "count": 1, "samples": 90},
        {"name": "weak", "count": many, "max_macs": round(weak * whole)},
        *([{"name": "other", "count": few, "max_macs": round(other * whole)}] if few else []),
        {"name": "ann", "count": 1, "owner": "ann" if ann else ""},
        {"name": "anns", "count": 2, "max_macs": round(other * whole), "owner": "ann" if ann else ""},
    )
    kinds = {name: kind for kind in crowd.classes for name in kind.names}
    best = inf
    for held in divisions(network.whole[0]):
        needs = [network.of_dominator(held), *(network.of_helper(of) for of in held for _ in range(3))]
        takers = [[name for name, kind in kinds.items() if not over(kind, each)] for each in needs]
        if turns := turns_of(["strong-1"], [*kinds][1 : len(needs)], takers, owners_of(crowd)):
            best = min(best, traffic(network, crowd, held, [GroupPlan(tuple(kinds), turns)]).total)
    try:
        plan = plan_network(request, crowd).plan
    except InfeasiblePlan:
        assert best == inf
        return
    assert plan.traffic is not None
    assert plan.certificate is not None
    if len(plan.pieces) <= 7:
        assert best < inf
        assert plan.traffic.total >= best * (1 - 1e-9)
    assert plan.traffic.total <= best * (1 + 1e-6)
    assert plan.certificate.bound <= plan.traffic.total


def planned(*kinds: dict[str, Any], group_size: int | None = None, **more: Any) -> NetworkPlan:
    request = PlanRequest(MODEL, (64,), batch=32, sums="shares", **more)
    return plan_network(request, fleet(*kinds), group_size=group_size)


def test_devices_of_one_owner_are_in_no_triple_together() -> None:
    found = planned(
        {"name": "ann", "owner": "ann", "count": 3, "samples": 100},
        {"name": "bob", "owner": "bob", "count": 2, "samples": 0},
        {"name": "other", "count": 1, "samples": 0},
    ).plan
    owner = owners_of(found.fleet)  # type: ignore[arg-type]
    (group,) = found.groups
    assert len(group.turns) == 3
    assert all(len({owner[d] for d in turn.devices[1:]}) == 3 for turn in group.turns)
    assert found.certificate is not None
    assert found.certificate.optimal
    assert moves(group.turns) == 2


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (({"name": "few", "count": 3, "samples": 100},), "the fleet has 3 devices"),
        (
            ({"name": "ann", "owner": "ann", "count": 5, "samples": 100}, {"name": "bob", "count": 1}),
            "of 2 owners; it would take devices of further owners",
        ),
        (
            (
                {"name": "weak", "count": 3, "samples": 0, "max_macs": 1000},
                {"name": "strong", "count": 2, "samples": 100},
            ),
            "on weak (limit 1,000, +",
        ),
        (({"name": "all", "count": 4, "samples": 100, "max_macs": 1000},), "MAC on all (limit 1,000"),
        (({"name": "all", "count": 4, "samples": 100, **JOULES},), "leave max_joules and battery_share out"),
    ],
)
def test_fleets_without_triples_are_refused_with_what_would_do(kinds: Any, told: str) -> None:
    with pytest.raises(InfeasiblePlan) as refused:
        planned(*kinds)
    assert told in str(refused.value)


def test_what_would_do_does() -> None:
    """The caps that are told are the smallest: a plan keeps to them, and to nothing less."""
    kinds = {"name": "strong", "count": 1, "samples": 100}, {"name": "weak", "count": 6, "max_macs": 5731}
    with pytest.raises(InfeasiblePlan) as refused:
        planned(*kinds, first_layer="shared")
    found = re.search(r"compute ([\d,]+) MAC on weak \(limit 5,731, \+11", str(refused.value))
    assert found is not None
    needed = int(found[1].replace(",", ""))
    plan = planned(kinds[0], {**kinds[1], "max_macs": needed}, first_layer="shared").plan
    assert len(plan.pieces) == 7
    with pytest.raises(InfeasiblePlan):
        planned(kinds[0], {**kinds[1], "max_macs": needed - 1}, first_layer="shared")


def test_triples_are_as_few_as_caps_allow_and_divide_no_map_without_need() -> None:
    strong = {"name": "strong", "count": 1, "samples": 100}
    for cap, pieces, divided in ((13_000, 4, 0), (9_000, 7, 0), (7_000, 7, 1)):
        weak = {"name": "weak", "count": 6, "max_macs": cap}
        plan = planned(strong, weak, first_layer="shared").plan
        assert len(plan.pieces) == pieces
        held = [[n > 0 for n in piece.owned] for piece in plan.pieces[1::3]]
        assert sum(sum(layer) > 1 for layer in zip(*held, strict=True)) == divided
        assert all(piece.macs <= cap for piece in plan.pieces[1:])
        assert plan.certificate is not None
        assert plan.certificate.optimal


def test_plans_with_noise_are_audited_by_their_runs(tmp_path: Path) -> None:
    kinds = {"name": "phone", "count": 4, "samples": 100}
    request = PlanRequest(MODEL, (64,), batch=32, sums="shares", private=True)
    save_plan(plan_network(request, fleet(kinds)).plan, tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="does not tell how much; audit its run"):
        prepared_of(tmp_path / "plan.json", "digits", MODEL, lambda what: None)


def test_a_helped_dominator_computes_next_to_nothing() -> None:
    kinds = {"name": "phone", "count": 4, "samples": 100}
    kept, shared = (planned(kinds, first_layer=each).plan for each in ("kept", "shared"))
    assert shared.pieces[0].macs < 0.6 * kept.pieces[0].macs
    assert shared.pieces[1].macs > kept.pieces[1].macs


def test_runs_take_plans_for_shares_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        '[[class]]\nname = "a"\nowner = "ann"\ncount = 2\nsamples = 100\nmacs_per_second = 1e9\n'
        '[[class]]\nname = "b"\ncount = 3\nmacs_per_second = 1e9\n'
    )
    saved = tmp_path / "plan.json"
    command = ["plan", MODEL, "--fleet", str(tmp_path / "fleet.toml"), "--sums", "shares", "--batch", "32"]
    done = CliRunner().invoke(
        build(["plan"]), [*command, "--save", str(saved), "--plot", str(tmp_path / "p.svg")]
    )
    assert done.exit_code == 0, done.output
    assert "helper" in done.output
    assert "b-1, b-2, b-3" in done.output
    told = json.loads(CliRunner().invoke(build(["plan"]), [*command, "--json"]).stdout)
    assert told["shares"] == "kept"

    def checked(batch: int = 32, sums: str = "shares") -> Any:
        values = {
            "data": "digits",
            "model": MODEL,
            "group": {"plan": str(saved)},
            "training": {"batch": batch},
            "privacy": {"sums": sums},
        }
        return check(parse_config(values, RunSpec, "the test"))

    assert simulated(checked().config, 5, 32).plan == saved
    plan = checked().plan
    assert plan.shares == "kept"
    with pytest.raises(PlanError, match="plan again with --sums shares, --batch 64"):
        checked(64)
    with pytest.raises(PlanError, match="plan again"):
        checked(sums="plain")
