"""Plans on shares: helpers of three owners beside every dominator, moved as seldom as can be."""

from __future__ import annotations

import json
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_host.cli import build
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import InfeasiblePlan, PlanError
from crowdlearn_host.planner.plan import Turn
from crowdlearn_host.planner.triples.planned import owners_of
from crowdlearn_host.planner.triples.turns import turns_of
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


def fewest(dominators: list[str], able: list[str], owner: dict[str, str]) -> int:
    """The fewest moves of any triples in any places, or INFINITE: by every way round the turns."""
    places = [
        [t for t in permutations(able, 3) if d not in t and len({owner[x] for x in t}) == 3]
        for d in dominators
    ]
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


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[str], list[str], dict[str, str]]:
    names = [f"phone-{k}" for k in range(draw(st.integers(4, 5)))]
    owner = {name: draw(st.sampled_from("abcde")) for name in names}
    dominators = names[: draw(st.integers(1, len(names)))]
    able = [name for name in draw(st.permutations(names)) if draw(st.integers(0, 5))]
    return dominators, able, owner


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(groups())
def test_no_other_triples_move_less(case: tuple[list[str], list[str], dict[str, str]]) -> None:
    dominators, able, owner = case
    turns, least = turns_of(dominators, able, owner), fewest(dominators, able, owner)
    if turns is None:
        assert least == INFINITE
        return
    assert [turn.devices[0] for turn in turns] == dominators
    for turn in turns:
        assert len({*turn.devices}) == 4
        assert len({owner[device] for device in turn.devices[1:]}) == 3
        assert {*turn.devices[1:]} <= {*able}
    assert moves(turns) == least


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

    assert simulated(checked().config, 5, 32).plan is None
    plan = checked().plan
    assert plan.shares == "kept"
    with pytest.raises(PlanError, match="plan again with --sums shares, --batch 64"):
        checked(64)
    with pytest.raises(PlanError, match="plan again"):
        checked(sums="plain")
