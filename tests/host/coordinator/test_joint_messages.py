"""A device whose connection is busy sends what waits for one receiver as one, and nothing else changes."""

from __future__ import annotations

import pytest
from crowdlearn_device.member import events as member_events
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.joint import joined

from .crowd import TWO_PIECES, Crowd, settings_for

WORK = (pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR)


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("busy", [0.5, 1.0])
def test_fewer_envelopes_train_the_same_weights(tmp_path, busy, staleness):
    settings = settings_for(in_flight=4, staleness=staleness, batch=6)
    alone = Crowd(tmp_path / "alone", settings)
    alone.run()
    crowd = Crowd(tmp_path / "busy", settings, busy=busy)
    crowd.run()
    crowd.check_done(alone.model())
    sent = [[each for each in of.envelopes if each.purpose in WORK] for of in (alone, crowd)]
    assert not any(each.more for each in sent[0])
    assert any(each.more for each in sent[1])
    assert len(sent[1]) < len(sent[0])
    assert sum(1 + each.more for each in sent[1]) == len(sent[0])


def test_a_device_that_dies_with_messages_that_wait_is_one_that_dies(tmp_path):
    settings = settings_for(in_flight=4)
    undisturbed = Crowd(tmp_path / "undisturbed", settings)
    undisturbed.run()
    crowd = Crowd(tmp_path / "crowd", settings, busy=1.0)

    def one_waits() -> bool:
        members = [phone.member for phone in crowd.phones]
        return any(m and m.generation and m.generation.outbox.bytes for m in members)

    for _ in range(3):
        crowd.run_until(one_waits)
        victim = next(
            phone
            for phone in crowd.phones
            if phone.member and phone.member.generation and phone.member.generation.outbox.bytes
        )
        crowd.crash(victim.number)
        crowd.connect(victim.number)
    crowd.run()
    crowd.check_done(undisturbed.model())


@pytest.mark.parametrize(
    ("purpose", "content", "words"),
    [
        (pb.PURPOSE_ACTIVATION, joined([b"\xff", b""]), "sums of 1 bytes does not parse"),
        (pb.PURPOSE_ACTIVATION, b"ab", "2 messages in an envelope of 2 bytes"),
        (pb.PURPOSE_SHUFFLE, joined([b"", b""]), "several messages of purpose 3 as one"),
    ],
)
def test_several_messages_are_checked_as_one_is(tmp_path, purpose, content, words):
    crowd = Crowd(tmp_path, settings_for(TWO_PIECES, 2), samples=(7, 5))
    crowd.run_until(lambda: crowd.group.phase == "running")
    dominator, follower = crowd.group.holders
    liar, victim = crowd.phones[follower].member, crowd.phones[dominator].member
    assert liar is not None
    assert liar.generation is not None
    assert victim is not None
    envelope = liar.generation.channels[dominator].seal(purpose, content, more=1)
    said = handle(victim, member_events.Received(pb.Frame(envelope=envelope)))
    (fault,) = [frame.fault for frame in said if frame.HasField("fault")]
    assert words in fault.reason
