"""Steps of DP-SGD on shares: helpers get gradients with noise alone, and those of one unsliced network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.errors import DeviceError, WireError
from crowdlearn_device.member.roles.private_dominator import PrivateDominator
from crowdlearn_device.member.roles.private_helper import PrivateHelper
from crowdlearn_device.member.roles.registry import ROLES
from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.methods.index_space import unflatten
from crowdlearn_host.privacy.audit.case import first_moment, recipe_of
from crowdlearn_host.privacy.audit.rehearsal import Moment, Recipe, rehearse
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.simulation.learners.group import GroupModel
from crowdlearn_host.simulation.learners.workload import Pass
from crowdlearn_host.simulation.setting import prepare as simulated_setting
from crowdlearn_host.spec.run_spec import RunSpec
from crowdlearn_host.spec.simulated import simulated

from .test_passes_on_shares import Group, check_at_rest, check_damaged, spoiled

SAMPLES, BATCH, RATE = 150, 48, 0.1
NOISE, CLIP = 0.5, 0.7
MODELS = Path(__file__).parent / "models_without_batch_norm.py"


def spec(**changes: Any) -> RunSpec:
    values: dict[str, Any] = {
        "data": "digits",
        "model": f"{MODELS}:smooth",
        "group": {"pieces": 4},
        "training": {"batch": BATCH, "learning_rate": RATE, "momentum": 0.9, "kernels": "by_size"},
        "privacy": {"sums": "shares", "noise": NOISE, "clip": CLIP},
    }
    return RunSpec.model_validate({**values, **changes})


@pytest.fixture(scope="module", params=["kept", "shared", "maps", "frozen"])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    if request.param == "maps":
        described = spec(model=f"{MODELS}:maps", input_shape=[1, 8, 8])
    elif request.param == "frozen":
        described = spec(model=f"{MODELS}:partly_frozen")
    else:
        privacy = {"sums": "shares", "noise": NOISE, "clip": CLIP, "first_layer": request.param}
        described = spec(privacy=privacy)
    return prepare(described, lambda event, fields: None)


def private(recipe: Recipe) -> Recipe:
    training = pb.Training()
    training.CopyFrom(recipe.training)
    training.wire = pb.FLOAT32
    training.clipping.CopyFrom(pb.Clipping(clip=CLIP, noise=NOISE))
    return replace(recipe, training=training)


def after_a_pass(prepared: Prepared) -> Moment:
    assert prepared.train is not None
    data = prepared.train.subset(np.arange(SAMPLES))
    return rehearse(private(recipe_of(prepared)), first_moment(prepared), data, epoch=0, device=0).after


def test_a_pass_ends_in_the_weights_of_one_unsliced_network_with_the_same_noise(prepared: Prepared) -> None:
    assert prepared.train is not None
    data, nobody = prepared.train.subset(np.arange(SAMPLES)), np.arange(0)
    config = simulated(prepared.config, 4, prepared.micro_batch)
    setting = simulated_setting(config, data, data, [np.arange(SAMPLES), nobody, nobody, nobody])
    start = setting.initial
    slots = np.zeros(len(start), np.float32)
    result = GroupModel(setting.workload).train((Pass(0, 0),), start, slots, RATE, accumulate=False)
    state = prepared.model.state_dict()
    exact = unflatten(result.weights, state, setting.workload.unused)
    found = after_a_pass(prepared).values
    assert found.keys() == exact.keys()
    for name, values in found.items():
        due, first = exact[name].numpy(), state[name].numpy()
        if due.ndim > 1 and values.shape != due.shape:
            due, first = due.swapaxes(0, 1), first.swapaxes(0, 1)
        assert np.abs(values - due.reshape(values.shape)).max() <= 1e-4, name
        assert name in prepared.graph.frozen or np.abs(due - first).max() > 2e-3, name


def test_every_private_role_rests_before_its_go_and_refuses_what_it_cannot_read(prepared: Prepared) -> None:
    roles = {type(work): work for work in Group(prepared, recipe=private(recipe_of(prepared))).works}
    assert set(roles) == {role for name, role in ROLES.items() if "private" in name}
    check_at_rest(roles.values())


def test_a_pass_ends_in_the_same_bits_every_time(prepared: Prepared) -> None:
    first, second = (after_a_pass(prepared) for _ in range(2))
    for name, values in first.values.items():
        np.testing.assert_array_equal(values, second.values[name])


def test_helpers_see_neither_gradients_without_noise_nor_how_many_samples_were_drawn(
    prepared: Prepared,
) -> None:
    seen: list[tuple[int, int, pb.SharedArray]] = []

    def watch(source: int, target: int, message: pb.SharedArray) -> bool:
        told = pb.SharedArray()
        told.CopyFrom(message)
        seen.append((source, target, told))
        return False

    group = Group(prepared, watch, private(recipe_of(prepared)))
    group.run()
    assert isinstance(group.works[0], PrivateDominator)
    assert all(isinstance(work, PrivateHelper) for work in group.works[1:])
    between = {message.kind for source, target, message in seen if source and target}
    assert between == {pb.SHARED_WEIGHTS}
    kinds = pb.SHARED_ACTIVATIONS, pb.SHARED_ERRORS, pb.SHARED_CLIPPED
    shared = [m for source, _, m in seen if source == 0 and m.kind in kinds]
    assert {(m.shape[0], m.bits) for m in shared} == {(most_drawn(BATCH), 0)}
    data = [m.data for m in shared if m.data]
    words = np.concatenate([np.frombuffer(each, "<u4") for each in data])
    counts = np.bincount(np.unique(words) >> 24, minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400  # uniform: chi square of 255 degrees, 1e-8
    gradients = [m for source, target, m in seen if source == 0 and target == 1 and m.kind == pb.SHARED_NOISY]
    steps = -(-SAMPLES // BATCH)
    maps_shared = len({m.edge for m in gradients})
    assert len(gradients) == steps * maps_shared
    deviations = [np.frombuffer(m.data, "<f4").std() for m in gradients]
    assert min(deviations) > 0.8 * NOISE * CLIP / BATCH


@pytest.mark.parametrize("guilty", [1, 2, 3])
def test_a_helper_that_sends_a_wrong_part_of_a_gradient_is_named(prepared: Prepared, guilty: int) -> None:
    with pytest.raises(WireError, match=f"piece {guilty} computes a wrong part of a gradient"):
        Group(prepared, spoiled(pb.SHARED_GRADIENT, guilty, (0,)), private(recipe_of(prepared))).run()


@pytest.mark.parametrize("kind", [pb.SHARED_GRADIENT, pb.SHARED_CLIPPED, pb.SHARED_NOISY, pb.SHARED_ERRORS])
def test_what_comes_twice_is_refused(prepared: Prepared, kind: pb.SharedKind) -> None:
    group = Group(
        prepared, lambda source, target, message: message.kind == kind, private(recipe_of(prepared))
    )
    with pytest.raises(DeviceError):
        group.run()


@pytest.mark.parametrize("seed", range(12))
def test_one_damaged_message_is_refused_or_changes_nothing(prepared: Prepared, seed: int) -> None:
    check_damaged(prepared, seed, 120, [1], private(recipe_of(prepared)))


def test_devices_and_descriptions_refuse_what_would_not_hide_a_sample(prepared: Prepared) -> None:
    recipe = private(recipe_of(prepared))
    small = replace(recipe, training=pb.Training.FromString(recipe.training.SerializeToString()))
    small.training.micro_batch = BATCH
    with pytest.raises(WireError, match="need room for"):
        Group(prepared, recipe=small)
    with pytest.raises(ConfigError, match=r"set training.batch = 32 or more"):
        spec(training={"batch": 16})
    with pytest.raises(ConfigError, match="masks round all"):
        spec(privacy={"sums": "masked", "noise": NOISE})
