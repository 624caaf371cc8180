"""The rules of streams, played between two ends without a network."""

import pytest
from crowdlearn_host.adb.wire.messages import Command, Message, ProtocolError
from crowdlearn_host.adb.wire.streams import Closed, Data, Incoming, Opened, Streams, Writable
from hypothesis import given
from hypothesis import strategies as st


def opened_pair() -> tuple[Streams, int, Streams, int]:
    host, phone = Streams(), Streams()
    near, message = host.open(b"shell:ls")
    incoming, _ = phone.receive(message)
    assert isinstance(incoming, Incoming)
    assert incoming.service == b"shell:ls"
    assert host.receive(phone.accept(incoming.local_id)) == (Opened(near), None)
    assert host.can_write(near)
    return host, near, phone, incoming.local_id


def test_a_stream_takes_the_next_write_after_the_reader_took_the_last() -> None:
    host, near, phone, far = opened_pair()
    sent = host.write(near, b"one")
    assert not host.can_write(near)
    with pytest.raises(ValueError):
        host.write(near, b"two")
    assert phone.receive(sent) == (Data(far, b"one"), None)
    okay = phone.acknowledge(far)
    assert okay is not None
    assert host.receive(okay) == (Writable(near), None)
    assert host.can_write(near)


def test_a_second_write_before_the_acknowledgement_breaks_the_protocol() -> None:
    host, near, phone, _ = opened_pair()
    sent = host.write(near, b"one")
    phone.receive(sent)
    with pytest.raises(ProtocolError, match="before the first was acknowledged"):
        phone.receive(sent)


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
    st.lists(st.builds(Message, st.sampled_from(Command), small, small, st.binary(max_size=3)), max_size=40)
)
def test_no_order_of_messages_does_more_than_break_the_connection(received: list[Message]) -> None:
    streams = Streams(max_streams=3)
    streams.open(b"shell:")
    for message in received:
        try:
            event, _ = streams.receive(message)
        except ProtocolError:
            return
        if isinstance(event, Incoming):
            streams.accept(event.local_id)
        if isinstance(event, Data):
            streams.acknowledge(event.local_id)
        assert len(streams) <= 3
