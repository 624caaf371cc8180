"""Devices on shares, with their own code and messages in one process, train like devices in the clear."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.errors import DeviceError, WireError
from crowdlearn_device.member.roles.base import Assigned, Deliver, Results, Role
from crowdlearn_device.member.roles.dominator_on_shares import DominatorOnShares
from crowdlearn_device.member.roles.helper_on_shares import HelperOnShares
from crowdlearn_device.member.roles.registry import ROLES, role_for
from crowdlearn_device.privacy.mechanisms.outgoing import Outgoing
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.schedule import mini_batches
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.errors import ConfigError, PlanError
from crowdlearn_host.privacy.audit.case import first_moment, recipe_of
from crowdlearn_host.privacy.audit.rehearsal import Moment, Recipe, _piece_state, rehearse
from crowdlearn_host.runs.checks.checked import check
from crowdlearn_host.runs.prepare import Prepared, prepare
from crowdlearn_host.spec.run_spec import RunSpec
from google.protobuf.message import DecodeError
from torch import nn


def smooth() -> nn.Module:
    """No kinks, so that rounding stays small."""
    layers = [nn.Linear(64, 40), nn.BatchNorm1d(40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 10))


class Residual(nn.Module):
    """Convolution, depthwise convolution, residual addition, batch norm, pooling and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.each, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6)
        self.point, self.head = nn.Conv2d(6, 6, (3, 1), padding=(1, 0)), nn.Linear(6 * 16, 12)
        self.last = nn.Linear(12, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        x = torch.tanh(self.point(torch.tanh(self.norm(self.each(x)))) + x)
        return self.last(torch.tanh(self.head(nn.functional.avg_pool2d(x, 2).flatten(1))))


def residual() -> nn.Module:
    return Residual()


VALUES: dict[str, Any] = {
    "data": "digits",
    "model": f"{__file__}:smooth",
    "group": {"pieces": 4},
    "training": {"batch": 48, "learning_rate": 0.05, "kernels": "by_size"},
    "privacy": {"sums": "shares"},
}


def spec(**changes: Any) -> RunSpec:
    return parse_config({**VALUES, **changes}, RunSpec, "the test")


@pytest.fixture(scope="module", params=["kept", "shared", "residual"])
def prepared(request: pytest.FixtureRequest) -> Prepared:
    if request.param == "residual":
        described = spec(model=f"{__file__}:residual", input_shape=[1, 8, 8])
    else:
        described = spec(privacy={"sums": "shares", "first_layer": request.param})
    return prepare(described, lambda event, fields: None)


def plain(recipe: Recipe) -> Recipe:
    training = pb.Training()
    training.CopyFrom(recipe.training)
    training.shares, training.wire = False, pb.FLOAT32
    return replace(recipe, training=training)


def test_a_pass_on_shares_ends_in_the_weights_of_one_in_the_clear(prepared: Prepared) -> None:
    assert prepared.train is not None
    data, start, recipe = prepared.train.subset(np.arange(400)), first_moment(prepared), recipe_of(prepared)
    shared = rehearse(recipe, start, data, epoch=0, device=0).after
    clear = rehearse(plain(recipe), start, data, epoch=0, device=0).after
    for kind, exactly in {"values": clear.values, **clear.slots}.items():
        for name, exact in exactly.items():
            found = (shared.values if kind == "values" else shared.slots[kind])[name]
            assert np.abs(found - exact).max() <= 2e-3 * max(np.abs(exact).max(), 0.1), (kind, name)


def test_a_pass_on_shares_ends_in_the_same_bits_every_time(prepared: Prepared) -> None:
    """Keys and shares are fresh; what they give is not."""
    assert prepared.train is not None
    data, start, recipe = prepared.train.subset(np.arange(200)), first_moment(prepared), recipe_of(prepared)
    first, second = (rehearse(recipe, start, data, epoch=0, device=0).after for _ in range(2))
    for name, values in first.values.items():
        np.testing.assert_array_equal(values, second.values[name])


class Group:
    """A dominator and three helpers, whose messages a test may change on their way."""

    def __init__(
        self,
        prepared: Prepared,
        tamper: Callable[[int, int, pb.SharedArray], bool] = lambda source, target, message: False,
        recipe: Recipe | None = None,
    ) -> None:
        recipe, start = recipe or recipe_of(prepared), first_moment(prepared)
        assert prepared.train is not None
        self.data = prepared.train.subset(np.arange(150))
        layout = tuple(piece.neurons for piece in recipe.plan.pieces)
        batches = len(mini_batches(len(self.data), recipe.training.batch, 2))
        self.queue: deque[tuple[int, int, pb.Purpose, bytes]] = deque()
        self.works = []
        self.tamper = tamper
        for piece, program in enumerate(recipe.programs):
            assign = pb.Assign(generation=1, piece=piece, pass_end=batches, training=recipe.training)
            state = _piece_state(recipe.graph, layout[piece], start)
            executor = recipe.executors[piece]
            self.works.append(
                role_for(Assigned(assign, program.manifest, executor, layout, state, no_key, Outgoing()))
            )

    def carry_out(self, piece: int, results: Results) -> None:
        for result in results:
            if isinstance(result, Deliver):
                self.queue.append((piece, result.piece, result.purpose, result.content))

    def run(self) -> None:
        for piece, work in enumerate(self.works):
            self.carry_out(piece, work.go(lambda: self.data, 0))
        while True:
            while self.queue:
                source, target, purpose, content = self.queue.popleft()
                message = pb.SharedArray.FromString(content)
                for _ in range(1 + self.tamper(source, target, message)):
                    received = self.works[target].receive(source, purpose, message.SerializeToString())
                    self.carry_out(target, received)
            if not any(work.ready for work in self.works):
                return
            for piece, work in enumerate(self.works):
                self.carry_out(piece, work.run())


def no_key(piece: int) -> bytes:
    raise AssertionError("nothing is masked here")


def test_every_role_rests_before_its_go_and_refuses_what_it_cannot_read(prepared: Prepared) -> None:
    recipes = recipe_of(prepared), plain(recipe_of(prepared))
    roles = {type(work): work for recipe in recipes for work in Group(prepared, recipe=recipe).works}
    assert set(roles) == {role for name, role in ROLES.items() if "private" not in name}
    check_at_rest(roles.values())


def check_at_rest(roles: Iterable[Role]) -> None:
    """Every role does nothing before its go, and refuses what it cannot read."""
    for role in roles:
        assert not role.ready
        assert not list(role.run())
        assert role.boundary == 0
        with pytest.raises(DeviceError):
            list(role.receive(1, pb.PURPOSE_ACTIVATION, b"\xff" * 9))


def test_helpers_never_get_the_dominators_numbers(prepared: Prepared) -> None:
    seen: list[bytes] = []

    def watch(source: int, target: int, message: pb.SharedArray) -> bool:
        if source == 0 and message.kind in (pb.SHARED_ACTIVATIONS, pb.SHARED_ERRORS) and message.data:
            seen.append(message.data)
        return False

    group = Group(prepared, watch)
    group.run()
    assert isinstance(group.works[0], DominatorOnShares)
    assert all(isinstance(work, HelperOnShares) for work in group.works[1:])
    words = np.concatenate([np.frombuffer(data, "<u4") for data in seen])
    counts = np.bincount(np.unique(words) >> 24, minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400  # uniform: chi square of 255 degrees, 1e-8


TWICE = [
    *(pb.SHARED_SUMS, pb.SHARED_GRADIENT, pb.SHARED_KEYS, pb.SHARED_FACTS),
    *(pb.SHARED_CHECK_SUMS, pb.SHARED_CHECK_BACK, pb.SHARED_CHECK_GRADIENT),
]


@pytest.mark.parametrize("kind", TWICE)
def test_what_comes_twice_is_refused(prepared: Prepared, kind: pb.SharedKind) -> None:
    group = Group(prepared, lambda source, target, message: message.kind == kind)
    with pytest.raises(DeviceError):
        group.run()


@pytest.mark.parametrize("kind", range(len(pb.SharedKind.values())))
@pytest.mark.parametrize("change", ["data", "shape", "step", "edge"])
def test_what_does_not_fit_is_refused(prepared: Prepared, kind: int, change: str) -> None:
    changed = []

    def tamper(source: int, target: int, message: pb.SharedArray) -> bool:
        if message.kind != kind or changed:
            return False
        if change == "data" and message.data:
            message.data = message.data[:-4]
        elif change == "shape" and message.shape:
            message.shape[0] += 1
        elif change == "step" and kind > pb.SHARED_WEIGHTS:
            message.step += 5
        elif change == "edge" and kind > pb.SHARED_WEIGHTS:
            message.edge = 77
        else:
            return False
        changed.append(message)
        return False

    group = Group(prepared, tamper)
    try:
        group.run()
    except DeviceError:
        return
    role_0 = kind in (pb.SHARED_ACTIVATIONS, pb.SHARED_ERRORS) and change == "data"
    assert not changed or role_0, "it was taken"


def spoiled(kind: pb.SharedKind, guilty: int, victims: tuple[int, ...]) -> Callable[..., bool]:
    """Return what lets one helper send one wrong number in messages of a kind, from step 1 on."""

    def tamper(source: int, target: int, message: pb.SharedArray) -> bool:
        if message.kind == kind and source == guilty and target in victims and message.step:
            wrong = np.frombuffer(message.data, "<u4").copy()
            wrong[wrong.size // 2] += np.uint32(1)
            message.data = wrong.tobytes()
        return False

    return tamper


@pytest.mark.parametrize("guilty", [1, 2, 3])
@pytest.mark.parametrize("kind", [pb.SHARED_SUMS, pb.SHARED_BACK, pb.SHARED_CHECK_SUMS, pb.SHARED_CHECK_BACK])
def test_a_helper_that_computes_one_wrong_number_is_named(
    prepared: Prepared, kind: pb.SharedKind, guilty: int
) -> None:
    with pytest.raises(WireError, match=f"piece {guilty} computes wrong (sums|errors)"):
        Group(prepared, spoiled(kind, guilty, (0,))).run()


@pytest.mark.parametrize("victims", [(1,), (1, 2)])
def test_a_helper_that_sends_a_wrong_part_of_a_gradient_is_named(
    prepared: Prepared, victims: tuple[int, ...]
) -> None:
    """Also if it sends the same wrong part to both others, and takes another itself."""
    with pytest.raises(WireError, match=r"piece 3 sent piece [12] a wrong part of a gradient"):
        Group(prepared, spoiled(pb.SHARED_GRADIENT, 3, victims)).run()


def test_what_phones_cannot_share_yet_is_refused_before_anything_starts() -> None:
    shared = {"sums": "shares", "first_layer": "shared"}
    with pytest.raises(PlanError, match=r"1 input channels, too few .* take privacy.first_layer = 'kept'"):
        check(spec(model=f"{__file__}:residual", input_shape=[1, 8, 8], privacy=shared))
    with pytest.raises(ConfigError, match=r"set group.pieces = 4"):
        spec(group={"pieces": 3})
    with pytest.raises(ConfigError, match="whole mini-batches"):
        spec(training={"staleness": 1})


def test_the_moment_of_a_group_is_whole(prepared: Prepared) -> None:
    assert isinstance(first_moment(prepared), Moment)


def ended(group: Group) -> list[np.ndarray]:
    states = [work.state() for work in group.works]
    return [x for state in states for layer in state.layers.values() for _, x in sorted(layer.items())]


def check_damaged(
    prepared: Prepared, seed: int, messages: int, flips: list[int], recipe: Recipe | None = None
) -> None:
    """One of a helper's first messages in which bits are turned is refused, or changes nothing."""
    rng, seen = random.Random(seed), [0]
    due = rng.randrange(messages)

    def tamper(source: int, target: int, message: pb.SharedArray) -> bool:
        if source == 0:
            return False
        seen[0] += 1
        if seen[0] != due + 1:
            return False
        content = bytearray(message.SerializeToString())
        for _ in range(rng.choice(flips)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            message.ParseFromString(bytes(content))
        except DecodeError:
            message.data = message.data[1:]
        return rng.random() < 0.2

    calm = Group(prepared, lambda source, target, message: False, recipe)
    calm.run()
    damaged = Group(prepared, tamper, recipe)
    try:
        damaged.run()
    except DeviceError:
        return
    for found, exact in zip(ended(damaged), ended(calm), strict=True):
        np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("seed", range(30))
def test_one_damaged_message_of_a_helper_is_refused_or_changes_nothing(prepared: Prepared, seed: int) -> None:
    """Sealed messages cannot be damaged on their way: this is what a helper may do."""
    check_damaged(prepared, seed, 150, [1, 1, 4])
