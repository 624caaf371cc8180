"""What a server says against the protocol is a fault at the device, which keeps its keys and its state."""

from __future__ import annotations

import pytest
from crowdlearn_device.member.events import Received
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.member import Member
from crowdlearn_device.protocol import wire_pb2 as pb

from .crowd import TWO_PIECES, Crowd, settings_for


@pytest.fixture
def member(tmp_path) -> Member:
    """A follower at work."""
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    found = crowd.phones[crowd.group.holders[1]].member
    assert found
    return found


def assignment(member: Member, **changes: object) -> pb.Assign:
    """The next one, which differs from the one before it in this alone."""
    assert member.generation
    assign = pb.Assign.FromString(member.generation.assign.SerializeToString())
    assign.generation += 1
    assign.MergeFrom(pb.Assign(**changes))  # type: ignore[arg-type]
    return assign


def refused(member: Member, *frames: pb.Frame) -> str:
    """Why, after this the last of these is refused."""
    said: list[pb.Frame] = []
    for frame in frames:
        assert not [f for f in said if f.HasField("fault")]
        said += handle(member, Received(frame))
    fault = said[-1].fault
    assert fault.kind == pb.FAULT_WIRE
    return fault.reason


def test_keys_that_come_again_would_seal_under_the_same_key_stream(member: Member) -> None:
    assert member.run
    assert member.generation
    offers = [pb.KeyOffer(device=d, ephemeral=bytes(range(32))) for d in member.run.identities]
    keys = pb.Keys(generation=member.generation.number, offers=offers)
    assert "keys were exchanged already" in refused(member, pb.Frame(keys=keys))


def test_an_assignment_that_is_not_newer_begins_nothing_anew(member: Member) -> None:
    assign = assignment(member)
    assign.generation -= 1
    said = refused(member, pb.Frame(assign=assign))
    assert f"generation {assign.generation} after {assign.generation}" in said


def test_nobody_inherits_whose_identity_is_unknown(member: Member) -> None:
    assert "heirs [99]" in refused(member, pb.Frame(assign=assignment(member, heirs=[99])))


def test_patches_in_place_of_a_state_have_to_be_all_of_it(member: Member) -> None:
    assign = assignment(member, patched=True)
    assign.from_generation = 0
    patch = pb.Patch(generation=assign.generation, last=True)
    said = refused(member, pb.Frame(assign=assign), pb.Frame(patch=patch))
    assert "hold 0 of this piece's weights; all were due" in said
