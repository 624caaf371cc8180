"""Messages for one receiver that wait together travel as one, in their order."""

from __future__ import annotations

import pytest
from crowdlearn_device.errors import WireError
from crowdlearn_device.member.outbox import Outbox
from crowdlearn_device.member.roles.base import Deliver
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.joint import JOINT_BYTES, MOST_MORE, joined, parted
from hypothesis import given
from hypothesis import strategies as st

SUMS, ERRORS = pb.PURPOSE_ACTIVATION, pb.PURPOSE_ERROR


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=20))
def test_what_is_joined_comes_apart_as_it_was(messages: list[bytes]) -> None:
    assert parted(joined(messages), len(messages) - 1) == messages


@given(st.binary(max_size=40), st.integers(0, MOST_MORE))
def test_any_content_comes_apart_whole_or_is_refused(content: bytes, more: int) -> None:
    try:
        found = parted(content, more)
    except WireError:
        return
    assert len(found) == more + 1
    assert content.endswith(b"".join(found))


deliveries = st.builds(
    Deliver,
    st.integers(0, 2),
    st.sampled_from([SUMS, ERRORS]),
    st.binary(max_size=40) | st.integers(JOINT_BYTES // 2, 2 * JOINT_BYTES).map(bytes),
    st.booleans(),
)


@given(st.lists(deliveries, max_size=30))
def test_no_message_overtakes_another_for_its_receiver_and_lane(given_: list[Deliver]) -> None:
    outbox = Outbox()
    for message in given_:
        outbox.put(message)
    assert outbox.bytes == sum(len(message.content) for message in given_)
    letters = outbox.take()
    assert not outbox.take()
    for letter in letters:
        assert len(letter.contents) == 1 or letter.bytes <= JOINT_BYTES
    for piece in range(3):
        for express in (False, True):
            left = [
                (each.purpose, c)
                for each in letters
                for c in each.contents
                if (each.piece, each.express) == (piece, express)
            ]
            put = [
                (each.purpose, each.content)
                for each in given_
                if (each.piece, each.express) == (piece, express)
            ]
            assert left == put


def test_sums_of_several_layers_and_micro_batches_for_one_receiver_are_one_letter() -> None:
    outbox = Outbox()
    for number in range(4):
        for piece in (1, 2):
            outbox.put(Deliver(piece, SUMS, bytes([number])))
    outbox.put(Deliver(1, ERRORS, b"back"))
    letters = outbox.take()
    told = [(each.piece, each.purpose, each.contents) for each in letters]
    four = [bytes([number]) for number in range(4)]
    assert told == [(1, SUMS, four), (2, SUMS, four), (1, ERRORS, [b"back"])]


def test_no_letter_has_more_messages_than_its_header_counts() -> None:
    outbox = Outbox()
    for _ in range(MOST_MORE + 5):
        outbox.put(Deliver(1, SUMS, b""))
    assert [len(each.contents) for each in outbox.take()] == [MOST_MORE + 1, 4]


def test_messages_that_are_not_all_there_are_refused() -> None:
    with pytest.raises(WireError, match="4 messages in an envelope of 11 bytes"):
        parted(bytes(11), 3)
    with pytest.raises(WireError, match="and one more in an envelope of 6 bytes"):
        parted(b"\x03\0\0\0ab", 1)
