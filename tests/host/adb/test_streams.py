"""The rules of streams, played between two ends without a network."""

import struct

import pytest
from crowdlearn_host.adb.wire.messages import Command, Message, ProtocolError
from crowdlearn_host.adb.wire.streams import (
    ACKNOWLEDGED_BYTES,
    WINDOW_BYTES,
    Closed,
    Data,
    Incoming,
    Opened,
    Streams,
    Writable,
)
from hypothesis import given
from hypothesis import strategies as st


def opened_pair(
    *, counts_bytes: bool = False, window: int = WINDOW_BYTES
) -> tuple[Streams, int, Streams, int]:
    host, phone = Streams(counts_bytes=counts_bytes), Streams(counts_bytes=counts_bytes)
    near, message = host.open(b"shell:ls", window)
    incoming, _ = phone.receive(message)
    assert isinstance(incoming, Incoming)
    assert incoming.service == b"shell:ls"
    assert host.receive(phone.accept(incoming.local_id)) == (Opened(near), None)
    assert host.flow(near).room > 0
    return host, near, phone, incoming.local_id


def test_a_stream_takes_the_next_write_after_the_reader_took_the_last() -> None:
    host, near, phone, far = opened_pair()
    sent = host.write(near, b"one")
    assert host.flow(near).room <= 0
    with pytest.raises(ValueError):
        host.write(near, b"two")
    assert phone.receive(sent) == (Data(far, b"one"), None)
    okay = phone.acknowledge(far, 3)
    assert okay is not None
    assert host.receive(okay) == (Writable(near), None)
    assert host.flow(near).room > 0


def test_a_second_write_before_the_acknowledgement_breaks_the_protocol() -> None:
    host, near, phone, _ = opened_pair()
    sent = host.write(near, b"one")
    phone.receive(sent)
    with pytest.raises(ProtocolError, match="before the first was acknowledged"):
        phone.receive(sent)


def test_where_both_ends_count_bytes_many_writes_are_on_their_way_and_acknowledged_at_once() -> None:
    host, near, phone, far = opened_pair(counts_bytes=True)
    payload = bytes(ACKNOWLEDGED_BYTES // 4)
    answers = []
    for _ in range(5):
        assert host.flow(near).room > 0
        assert phone.receive(host.write(near, payload)) == (Data(far, payload), None)
        answers.append(phone.acknowledge(far, len(payload)))
    assert host.flow(near).granted - host.flow(near).room == 5 * len(payload)
    assert [answer is None for answer in answers] == [True, True, True, False, True]
    assert answers[3] == Message(Command.OKAY, far, near, struct.pack("<i", ACKNOWLEDGED_BYTES))
    assert host.receive(answers[3]) == (Writable(near), None)
    assert host.flow(near).granted - host.flow(near).room == len(payload)


def test_a_window_that_is_used_up_holds_the_sender_and_a_sender_that_goes_on_breaks_the_protocol() -> None:
    host, near, phone, far = opened_pair(counts_bytes=True, window=5)
    phone.write(far, b"12345")
    assert phone.flow(far).room <= 0
    assert host.receive(Message(Command.WRTE, far, near, b"12345"))[0] == Data(near, b"12345")
    with pytest.raises(ProtocolError, match="more than 5 bytes, none acknowledged"):
        host.receive(Message(Command.WRTE, far, near, b"6"))


def test_a_peer_may_take_back_what_it_granted() -> None:
    host, near, _, far = opened_pair(counts_bytes=True)
    assert host.receive(Message(Command.OKAY, far, near, struct.pack("<i", -WINDOW_BYTES)))
    assert host.flow(near).room <= 0
    assert host.receive(Message(Command.OKAY, far, near, struct.pack("<i", 1)))
    assert host.flow(near).room > 0


@pytest.mark.parametrize("payload", [b"", b"12345"])
def test_an_acknowledgement_that_counts_nothing_breaks_the_protocol(payload: bytes) -> None:
    host, near, _, far = opened_pair(counts_bytes=True)
    with pytest.raises(ProtocolError, match="4 were due"):
        host.receive(Message(Command.OKAY, far, near, payload))


@pytest.mark.parametrize("counts_bytes", [False, True])
def test_a_stream_whose_other_end_counts_otherwise_is_refused(counts_bytes: bool) -> None:
    host, phone = Streams(counts_bytes=counts_bytes), Streams(counts_bytes=not counts_bytes)
    near, message = host.open(b"sync:")
    assert phone.receive(message) == (None, Message(Command.CLSE, 0, near))


def test_a_refused_open_closes_the_stream_that_never_was() -> None:
    host, phone = Streams(), Streams()
    near, message = host.open(b"jdwp")
    incoming, _ = phone.receive(message)
    assert isinstance(incoming, Incoming)
    assert host.receive(phone.refuse(incoming.local_id)) == (Closed(near, was_open=False), None)
    assert len(host) == len(phone) == 0


def test_both_ends_forget_a_closed_stream() -> None:
    host, near, phone, far = opened_pair()
    close = host.close(near)
    assert close is not None
    event, answer = phone.receive(close)
    assert event == Closed(far, was_open=True)
    assert answer is not None
    assert host.receive(answer) == (None, None)
    assert len(host) == len(phone) == 0


def test_a_stream_that_was_given_up_before_it_opened_is_closed_at_the_other_end() -> None:
    host, phone = Streams(), Streams()
    near, message = host.open(b"tcp:1")
    incoming, _ = phone.receive(message)
    assert isinstance(incoming, Incoming)
    assert host.close(near) is None
    _, close = host.receive(phone.accept(incoming.local_id))
    assert close is not None
    phone.receive(close)
    assert len(phone) == 0


def test_a_peer_cannot_open_more_streams_than_allowed() -> None:
    phone = Streams(max_streams=2)
    for number in (1, 2):
        phone.receive(Message(Command.OPEN, number, 0, b"sync:\0"))
    assert phone.receive(Message(Command.OPEN, 3, 0, b"sync:\0")) == (None, Message(Command.CLSE, 0, 3))


small = st.integers(0, 4)


@given(
    st.lists(st.builds(Message, st.sampled_from(Command), small, small, st.binary(max_size=4)), max_size=40),
    st.booleans(),
)
def test_no_order_of_messages_does_more_than_break_the_connection(
    received: list[Message], counts_bytes: bool
) -> None:
    streams = Streams(max_streams=3, counts_bytes=counts_bytes)
    streams.open(b"shell:")
    for message in received:
        try:
            event, _ = streams.receive(message)
        except ProtocolError:
            return
        if isinstance(event, Incoming):
            streams.accept(event.local_id)
        if isinstance(event, Data):
            streams.acknowledge(event.local_id, len(event.payload))
        assert len(streams) <= 3
