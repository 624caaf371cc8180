"""The codec of adb messages: whole under any cut, and refusing before it takes."""

import struct

import pytest
from crowdlearn_host.adb.wire.messages import (
    MAX_PAYLOAD,
    Command,
    Decoder,
    Message,
    ProtocolError,
    checksum,
    encode_header,
)
from crowdlearn_host.adb.wire.shell_protocol import Channel, ShellDecoder, encode
from hypothesis import given
from hypothesis import strategies as st

numbers = st.integers(0, 0xFFFFFFFF)
messages = st.builds(Message, st.sampled_from(Command), numbers, numbers, st.binary(max_size=2000))


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces = []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    return [*pieces, data]


@given(st.lists(messages, max_size=5), st.lists(st.integers(0, 500)), st.booleans())
def test_messages_come_out_as_they_went_in(sent: list[Message], sizes: list[int], verify: bool) -> None:
    data = b"".join(encode_header(m, with_checksum=verify) + m.payload for m in sent)
    decoder = Decoder()
    decoder.verify_checksums = verify
    assert [m for piece in cut(data, sizes) for m in decoder.feed(piece)] == sent


@given(st.binary(max_size=5000))
def test_checksum_is_the_sum_of_the_bytes(payload: bytes) -> None:
    assert checksum(payload) == sum(payload)


@given(st.binary(max_size=200), st.lists(st.integers(0, 50)))
def test_noise_is_refused_or_waits_for_more(noise: bytes, sizes: list[int]) -> None:
    decoder = Decoder()
    try:
        for piece in cut(noise, sizes):
            list(decoder.feed(piece))
    except ProtocolError:
        return
    assert len(noise) < 24


def header(length: int) -> bytes:
    return struct.pack("<6I", Command.WRTE, 1, 1, length, 0, Command.WRTE ^ 0xFFFFFFFF)


def test_a_payload_above_the_agreed_size_is_refused_by_its_header() -> None:
    assert list(Decoder().feed(header(MAX_PAYLOAD))) == []
    with pytest.raises(ProtocolError, match="at most 1048576"):
        list(Decoder().feed(header(MAX_PAYLOAD + 1)))


def test_a_damaged_payload_is_refused() -> None:
    decoder = Decoder()
    decoder.verify_checksums = True
    with pytest.raises(ProtocolError, match="damaged"):
        list(decoder.feed(header(4) + b"abcd"))


@given(
    st.lists(st.tuples(st.sampled_from(Channel), st.binary(max_size=300)), max_size=6),
    st.lists(st.integers(0, 90)),
)
def test_shell_packets_come_out_as_they_went_in(sent: list[tuple[Channel, bytes]], sizes: list[int]) -> None:
    decoder = ShellDecoder()
    data = b"".join(encode(channel, payload) for channel, payload in sent)
    assert [packet for piece in cut(data, sizes) for packet in decoder.feed(piece)] == sent


@given(st.binary(max_size=100))
def test_noise_in_a_shell_stream_is_refused_or_waits(noise: bytes) -> None:
    try:
        list(ShellDecoder().feed(noise))
    except ProtocolError:
        assert noise
