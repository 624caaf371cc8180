"""Two triples of helpers, each with a part of the maps: as exact as one, and apart."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.member.roles.on_shares import shared_maps
from crowdlearn_device.piece.routes import Layout
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.errors import ConfigError, FleetError, PlanError
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.planner.problem.fleet import Fleet
from crowdlearn_host.privacy.audit.case import first_moment, recipe_of
from crowdlearn_host.privacy.audit.rehearsal import Recipe, rehearse
from crowdlearn_host.privacy.audit.targets import prepared_of
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.planned import PlanRequest, plan_network
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.simulation.learners.group import GroupModel
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import prepare as simulated_setting
from crowdlearn_host.spec.simulated import simulated

from . import test_passes_on_shares, test_private_on_shares
from .test_passes_on_shares import Group, check_damaged, plain, spoiled

PIECES = 7
NOISY = {"sums": "shares", "noise": 0.5, "clip": 0.7}
MAPS = Path(test_passes_on_shares.__file__)
SAMPLES = np.arange(150)


def spec(**changes: Any) -> Any:
    values = {"model": f"{MAPS}:residual", "input_shape": [1, 8, 8], "group": {"pieces": PIECES}, **changes}
    return test_passes_on_shares.spec(**values)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(spec(), lambda event, fields: None)


@pytest.fixture(scope="module")
def noisy() -> Prepared:
    described = spec(model=f"{test_private_on_shares.MODELS}:maps", privacy=NOISY)
    return prepare(described, lambda event, fields: None)


def recipe_for(prepared: Prepared) -> Recipe:
    recipe = recipe_of(prepared)
    return test_private_on_shares.private(recipe) if prepared.config.privacy.private else recipe


@pytest.fixture(params=["without noise", "with noise"])
def either(request: pytest.FixtureRequest, prepared: Prepared, noisy: Prepared) -> Prepared:
    return noisy if request.param == "with noise" else prepared


def test_maps_are_divided(either: Prepared) -> None:
    owned = [piece.owned for piece in either.plan.pieces]
    shared = [layer for layer, n in enumerate(owned[0]) if not n]
    assert any(owned[1][layer] and owned[4][layer] for layer in shared), "no map is in both triples"
    assert any(not owned[1][layer] for layer in shared)


def test_a_pass_ends_in_the_weights_of_one_in_the_clear(prepared: Prepared) -> None:
    assert prepared.train is not None
    data, start, recipe = prepared.train.subset(SAMPLES), first_moment(prepared), recipe_of(prepared)
    shared = rehearse(recipe, start, data, epoch=0, device=0).after
    clear = rehearse(plain(recipe), start, data, epoch=0, device=0).after
    for name, exact in clear.values.items():
        assert np.abs(shared.values[name] - exact).max() <= 2e-3 * max(np.abs(exact).max(), 0.1), name


def test_a_pass_ends_in_the_same_bits_every_time_and_in_those_of_a_simulation(either: Prepared) -> None:
    assert either.train is not None
    data, nobody = either.train.subset(SAMPLES), np.arange(0)
    recipe, start = recipe_for(either), first_moment(either)
    first, second = (rehearse(recipe, start, data, epoch=0, device=0).after for _ in range(2))
    config = simulated(either.config, PIECES, either.micro_batch)
    setting = simulated_setting(config, data, data, [SAMPLES, *[nobody] * (PIECES - 1)])
    slots, rate = np.zeros(len(setting.initial), np.float32), either.config.training.learning_rate
    of = GroupModel(setting.workload).train((Pass(0, 0),), setting.initial, slots, rate, accumulate=False)
    exact = unflatten(of.weights, either.model.state_dict(), setting.workload.unused)
    for name, values in first.values.items():
        np.testing.assert_array_equal(values, second.values[name])
        due = exact[name].numpy()
        if due.ndim > 1 and due.shape[1] > 1:  # else it is depthwise: weights lie source neurons first
            due = due.swapaxes(0, 1)
        assert np.abs(values - due.reshape(values.shape)).max() <= 1e-4, name


def test_triples_share_no_key(prepared: Prepared) -> None:
    """What both triples get of the same errors differs evenly: a helper of each learns no more than one."""
    seen: dict[tuple[int, int], dict[int, bytes]] = defaultdict(dict)

    def watch(source: int, target: int, message: pb.SharedArray) -> bool:
        if source == 0 and message.kind == pb.SHARED_ERRORS and message.data:
            edges = len(recipe_of(prepared).graph.edges)
            seen[message.edge % edges, message.step][target] = message.data
        return False

    Group(prepared, watch).run()
    both = [of for of in seen.values() if min(of) <= 3 < max(of) and len({len(x) for x in of.values()}) == 1]
    assert both
    apart = [np.frombuffer(of[min(of)], "<u4") - np.frombuffer(of[max(of)], "<u4") for of in both]
    words = np.concatenate(apart)
    counts = np.bincount(words >> 24, minlength=256)
    assert ((counts - len(words) / 256) ** 2 / (len(words) / 256)).sum() < 400  # uniform: 255 degrees, 1e-8


@pytest.mark.parametrize("guilty", [4, 6])
@pytest.mark.parametrize("kind", [pb.SHARED_SUMS, pb.SHARED_BACK, pb.SHARED_CHECK_SUMS])
def test_a_helper_of_the_second_triple_that_computes_wrong_is_named(
    prepared: Prepared, kind: pb.SharedKind, guilty: int
) -> None:
    with pytest.raises(WireError, match=f"piece {guilty} computes wrong (sums|errors)"):
        Group(prepared, spoiled(kind, guilty, (0,))).run()


def test_a_wrong_part_of_a_gradient_in_the_second_triple_is_named(either: Prepared) -> None:
    private = either.config.privacy.private
    victims, told = ((0,), "piece 6 computes") if private else ((4, 5), r"piece 6 sent piece [45]")
    with pytest.raises(WireError, match=f"{told} a wrong part of a gradient"):
        Group(either, spoiled(pb.SHARED_GRADIENT, 6, victims), recipe_for(either)).run()


def test_triples_take_nothing_of_each_other(prepared: Prepared) -> None:
    group, first = Group(prepared), shared_maps(*_of(prepared))
    number = min(n for n, of in first.items() if of.triple == 0)
    facts = pb.SharedArray(kind=pb.SHARED_FACTS, edge=number, facts=(1.0, 1.0, 1.0)).SerializeToString()
    with pytest.raises(WireError, match="which is not its triple's"):
        list(group.works[0].receive(4, pb.PURPOSE_ACTIVATION, facts))
    weights = pb.SharedArray(kind=pb.SHARED_WEIGHTS, name="value/x").SerializeToString()
    with pytest.raises(WireError, match="piece 1 is none of this helper's triple"):
        list(group.works[4].receive(1, pb.PURPOSE_ACTIVATION, weights))
    shares = pb.SharedArray(kind=pb.SHARED_ACTIVATIONS, edge=number).SerializeToString()
    with pytest.raises(WireError, match="which is not on shares"):
        list(group.works[4].receive(0, pb.PURPOSE_ACTIVATION, shares))


@pytest.mark.parametrize("seed", range(3))
def test_one_damaged_message_is_refused_or_changes_nothing(either: Prepared, seed: int) -> None:
    check_damaged(either, seed, 250, [1], recipe_for(either))


def _of(prepared: Prepared) -> tuple[Any, Layout, Any]:
    recipe = recipe_of(prepared)
    layout = tuple(piece.neurons for piece in recipe.plan.pieces)
    return recipe.programs[0].manifest, layout, recipe.training.maps


def test_layouts_that_are_no_triples_are_refused(prepared: Prepared) -> None:
    manifest, layout, told = _of(prepared)
    layer = next(k for k, (a, b) in enumerate(layout[4]) if b > a)

    def at(piece: int, where: int, ends: tuple[int, int]) -> Layout:
        row = (*layout[piece][:where], ends, *layout[piece][where + 1 :])
        return (*layout[:piece], row, *layout[piece + 1 :])

    nothing = tuple((n, n) for _, n in layout[6])
    for wrong, why in (
        (layout[:6], "6 pieces on shares"),
        (at(5, layer, (0, 0)), "2 of a triple's helpers have neurons"),
        ((*layout, nothing, nothing, nothing), "triple 3 has no map"),
        (at(4, 0, (0, 1)), "piece 4 has neurons of a layer that is no helpers' layer"),
    ):
        with pytest.raises(WireError, match=why):
            shared_maps(manifest, wrong, told)


def test_triples_that_cannot_be_are_refused_with_what_can() -> None:
    with pytest.raises(ConfigError, match=r"set group.pieces = 4, 7 for two triples, 10 for three"):
        spec(group={"pieces": 6})
    with pytest.raises(PlanError, match=r"neurons for 6 triples of helpers, not 7; set group.pieces = 19 or"):
        check(spec(group={"pieces": 22}))
    with pytest.raises(FleetError, match="1 groups of 7 pieces need 7 devices; 6 given"):
        check(spec(), devices=6)


def test_a_plan_on_shares_is_prepared_for_an_audit_as_it_runs(tmp_path: Path) -> None:
    fleet = Fleet.model_validate(
        {"class": [{"name": "a", "count": 4, "samples": 90, "macs_per_second": 1e9}]}
    )
    request = PlanRequest("mlp:64-9-6-10", (64,), batch=48, sums="shares", first_layer="shared")
    save_plan(plan_network(request, fleet).plan, tmp_path / "plan.json")
    found, _ = prepared_of(tmp_path / "plan.json", "digits", request.model, lambda what: None)
    assert (found.config.privacy.sums, found.config.privacy.first_layer) == ("shares", "shared")
    assert found.config.training.batch == 48
    assert found.plan.groups[0].turns[0].devices[0] == "a-1"


def test_plans_of_other_pieces_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    pieces = list(prepared.plan.pieces)
    layer = next(k for k, n in enumerate(pieces[4].owned) if n)
    (start, middle), (_, stop) = pieces[4].neurons[layer], pieces[5].neurons[layer]
    for k, ends in ((4, (start, middle + 1)), (5, (middle + 1, stop))):
        row = pieces[k].neurons
        pieces[k] = replace(pieces[k], neurons=(*row[:layer], ends, *row[layer + 1 :]))
    save_plan(replace(prepared.plan, pieces=tuple(pieces)), tmp_path / "plan.json")
    with pytest.raises(PlanError, match="a third of every map of its triple"):
        check(spec(group={"plan": str(tmp_path / "plan.json")}))
