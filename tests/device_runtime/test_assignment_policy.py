"""A device's own conditions on assignments, against a host that lies."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.data.dataset import Dataset
from crowdlearn_device.errors import PolicyError
from crowdlearn_device.member.events import Received
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.member import Member
from crowdlearn_device.program.executor import ProgramStore
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.security.assignment_policy import (
    AssignmentPolicy,
    fingerprint,
    load_assignment_policy,
)
from crowdlearn_device.security.identity import Identity

FRIENDS = [Identity.generate() for _ in range(6)]
OWN = FRIENDS[0]
KNOWN = tuple(fingerprint(friend.public) for friend in FRIENDS[1:])


def assignment(cuts: list[int], identities: list[Identity], *, heirs: tuple[int, ...] = ()) -> pb.Assign:
    """Piece k at identity k, with the hidden neurons between two cuts; the device itself is piece 0."""
    pieces = [
        pb.PieceSpec(
            device=k,
            neurons=[
                pb.Range(start=0, stop=64 if k == 0 else 0),
                pb.Range(start=cuts[k], stop=cuts[k + 1]),
                pb.Range(start=0, stop=10 if k == 0 else 0),
            ],
            program="0" * 64,
        )
        for k in range(len(cuts) - 1)
    ]
    peers = [pb.Peer(device=k, identity=each.public) for k, each in enumerate(identities)]
    training = pb.Training(learning_rate=0.1, batch=8, micro_batch=8)
    return pb.Assign(
        generation=1, piece=0, pieces=pieces, peers=peers, heirs=heirs, training=training, pass_end=5000
    )


def test_what_is_within_the_policy_is_accepted() -> None:
    policy = AssignmentPolicy(most_neurons=20, least_known=2, known=KNOWN, strangers=False)
    policy.check(assignment([0, 60, 80, 100], FRIENDS[:3]), OWN.public)
    AssignmentPolicy().check(assignment([0, 1, 100], [OWN, Identity.generate()]), OWN.public)
    policy.check_heirs([pb.Peer(device=4, identity=FRIENDS[4].public)])


@pytest.mark.parametrize(
    ("policy", "assign", "reason"),
    [
        (AssignmentPolicy(most_neurons=20), assignment([0, 79, 100], FRIENDS[:2]), "would hold 21 neurons"),
        (
            AssignmentPolicy(most_neurons=30),
            assignment([0, 60, 80, 100], [OWN, FRIENDS[1], FRIENDS[1]]),
            "would hold 40",
        ),
        (AssignmentPolicy(strangers=False), assignment([0, 60, 100], FRIENDS[:2]), "not known"),
        (
            AssignmentPolicy(strangers=False, known=KNOWN),
            assignment([0, 60, 100], [*FRIENDS[:2], Identity.generate()], heirs=(2,)),
            "device 2",
        ),
        (AssignmentPolicy(least_known=2, known=KNOWN), assignment([0, 60, 100], FRIENDS[:2]), "2 must"),
        (AssignmentPolicy(modes=("shares",)), assignment([0, 60, 100], FRIENDS[:2]), "allows shares"),
        (AssignmentPolicy(hours=(22, 6), clock=lambda: 12), assignment([0, 9], [OWN]), "from 22 to 6"),
        (AssignmentPolicy(), assignment([0, 60, 100], [OWN]), "no identity"),
        (AssignmentPolicy(least_noise=1.1), assignment([0, 60, 100], FRIENDS[:2]), "noise of 0 times"),
    ],
)
def test_what_is_outside_is_refused_with_the_reason(policy, assign, reason) -> None:
    with pytest.raises(PolicyError, match=reason):
        policy.check(assign, OWN.public)


def test_noise_is_asked_for_only_where_this_device_feeds_its_samples(tmp_path: Path) -> None:
    (tmp_path / "assignments.json").write_text(json.dumps({"least_noise": 1}))
    policy = load_assignment_policy(tmp_path)
    assert policy == AssignmentPolicy(least_noise=1.0)
    mine = assignment([0, 60, 100], FRIENDS[:2])
    for noise, accepted in ((0.9, False), (1.0, True), (float("nan"), False)):
        mine.training.clipping.CopyFrom(pb.Clipping(clip=1, noise=noise))
        if accepted:
            policy.check(mine, OWN.public)
        else:
            with pytest.raises(PolicyError, match="the owner asks for 1"):
                policy.check(mine, OWN.public)
    others = assignment([0, 60, 100], FRIENDS[:2])
    others.piece = 1
    policy.check(others, OWN.public)
    for wrong in (
        '{"least_noise": -1}',
        '{"least_noise": "1"}',
        '{"least_noise": true}',
        '{"least_noise": NaN}',
    ):
        (tmp_path / "assignments.json").write_text(wrong)
        with pytest.raises(PolicyError, match="least_noise"):
            load_assignment_policy(tmp_path)


def test_first_weights_of_the_host_are_refused_if_the_owner_wants_joint_ones() -> None:
    asks = AssignmentPolicy(first_weights="joint")
    first, later = assignment([0, 60, 100], FRIENDS[:2]), assignment([0, 60, 100], FRIENDS[:2])
    later.from_generation, later.boundary = 3, 7
    AssignmentPolicy().check_first(first, drawn=False, given=())
    asks.check_first(first, drawn=True, given=())
    asks.check_first(later, drawn=False, given=())
    first.patched = True
    for drawn, given, reason in ((False, (), "drew no seed"), (True, ("0.weight",), "0.weight")):
        with pytest.raises(PolicyError, match=reason):
            asks.check_first(first, drawn=drawn, given=given)


def _lie(rng: random.Random, strangers: list[Identity]) -> pb.Assign:
    """An assignment outside the policy, in one way of several, and otherwise at random."""
    way = rng.randrange(6)
    peers = [OWN, *rng.sample(FRIENDS[1:], 4)]
    if way == 0:  # one peer gets too much
        cuts = [0, rng.randrange(0, 60), 81 + rng.randrange(0, 10), 95, 98, 100]
    else:
        cuts = [0, 40, 55, 70, 85, 100]
    heirs: tuple[int, ...] = ()
    if way == 1:  # an invented device holds a piece
        peers[rng.randrange(1, 5)] = rng.choice(strangers)
    if way == 2:  # an invented heir
        peers.append(rng.choice(strangers))
        heirs = (5,)
    if way == 3:  # one friend under several numbers
        peers = [OWN, *[rng.choice(FRIENDS[1:])] * 4]
    assign = assignment(cuts, peers, heirs=heirs)
    if way == 4:
        assign.training.shares = True
    if way == 5:  # state is to go to a device that nobody named
        assign.transfers.add(device=rng.randrange(6, 100), piece=0, layer=1)
    assign.generation = rng.randrange(1, 1 << 31)
    assign.epoch, assign.boundary = rng.randrange(100), rng.randrange(1000)
    assign.training.learning_rate = rng.random()
    assign.fresh, assign.patched = rng.random() < 0.5, rng.random() < 0.5
    return assign


def test_of_ten_thousand_assignments_outside_the_policy_none_is_accepted(tmp_path: Path) -> None:
    told = {
        "most_neurons": 20,
        "least_known": 2,
        "known": list(KNOWN),
        "strangers": False,
        "modes": ["plain"],
    }
    (tmp_path / "assignments.json").write_text(json.dumps(told))
    rng, strangers = random.Random(0), [Identity.generate() for _ in range(20)]
    policy = load_assignment_policy(tmp_path)
    assert policy is not None
    assert load_assignment_policy(tmp_path / "other") is None
    accepted = 0
    for _ in range(10_000):
        try:
            policy.check(_lie(rng, strangers), OWN.public)
            accepted += 1
        except PolicyError:
            pass
    assert accepted == 0


def test_a_member_refuses_before_it_offers_a_key_and_tells_host_and_owner(tmp_path: Path) -> None:
    (tmp_path / "assignments.json").write_text(json.dumps({"most_neurons": 20, "strangers": False}))
    data = Dataset(np.zeros((4, 64), np.float32), np.zeros(4, np.int64))
    member = Member("phone-0", tmp_path, OWN, 4, lambda: data, ProgramStore(tmp_path))
    welcome = pb.Welcome(version=VERSION, run="r", device=0, id=bytes(16))
    said = handle(member, Received(pb.Frame(welcome=welcome)))
    for generation in range(1, 4):
        assign = _lie(random.Random(generation), [Identity.generate()])
        assign.generation = generation
        said += handle(member, Received(pb.Frame(assign=assign)))
    kinds = [frame.WhichOneof("body") for frame in said]
    assert kinds == ["fault"] * 3
    assert all(frame.fault.fatal for frame in said)
    assert member.run
    assert not member.run.identities  # not even the identities of invented devices are kept
    kept = [json.loads(line) for line in (tmp_path / "refusals.jsonl").read_text().splitlines()]
    assert [each["reason"] for each in kept] == [frame.fault.reason for frame in said]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"most": 1}',
        '{"most_neurons": -1}',
        '{"strangers": 0}',
        '{"modes": ["clear"]}',
        '{"hours": [1]}',
        '{"hours": [1, 99]}',
        '{"known": [1]}',
    ],
)
def test_a_damaged_policy_allows_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "assignments.json").write_text(text)
    with pytest.raises(PolicyError, match="no assignment is allowed"):
        load_assignment_policy(tmp_path)


def test_fingerprints_differ_and_stay() -> None:
    assert len({fingerprint(friend.public) for friend in FRIENDS}) == len(FRIENDS)
    assert fingerprint(bytes(32)) == fingerprint(bytes(32))
    assert len(fingerprint(bytes(32))) == 39
