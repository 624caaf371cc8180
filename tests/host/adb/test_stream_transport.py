"""An adb stream as a transport tells its protocol all that came, and its end, whenever they came."""

import asyncio
import socket
from collections.abc import Callable

import pytest
from crowdlearn_host.adb.carriers.joined import joined
from crowdlearn_host.adb.carriers.mux import Mux, Service, Stream
from crowdlearn_host.adb.carriers.stream_transport import StreamTransport
from crowdlearn_host.adb.wire.streams import ACKNOWLEDGED_WITH_DATA


class Heard(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()


async def connected(
    find_service: Callable[[str], Service | None], *, counts_bytes: bool = False
) -> tuple[Mux, Mux]:
    """Both ends of a connection, of which the second serves."""
    ends = Mux(), Mux(find_service=find_service)
    for mux, sock in zip(ends, socket.socketpair(), strict=True):
        mux.count_bytes(counts_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda mux=mux: mux, sock=sock)
    return ends


async def ended_stream() -> tuple[Stream, Mux, Mux]:
    """A stream on which the other end has said something, and which it has closed, and both ends."""

    async def speak(stream: Stream) -> None:
        stream.send(b"last words")
        stream.abort()

    host, phone = await connected(lambda name: speak)
    stream = await host.open("any:")
    async with asyncio.timeout(60):
        while not stream._ended:
            await asyncio.sleep(0.01)
    return stream, host, phone


async def test_a_stream_that_ended_before_it_is_a_transport_has_its_last_words_and_its_end() -> None:
    stream, *ends = await ended_stream()
    heard, transport = Heard(), StreamTransport(stream)
    transport.set_protocol(heard)
    await asyncio.wait_for(heard.lost.wait(), 60)
    assert heard.data == b"last words"
    for mux in ends:
        await mux.close()


async def test_a_stream_that_ended_before_it_is_joined_to_a_socket_ends_that() -> None:
    stream, *ends = await ended_stream()
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    await asyncio.wait_for(joined(stream, near), 60)
    said = b""
    while part := await asyncio.get_running_loop().sock_recv(far, 100):
        said += part
    assert said == b"last words"
    far.close()
    for mux in ends:
        await mux.close()


@pytest.mark.parametrize("counts_bytes", [False, True])
async def test_what_is_written_arrives_in_order_however_slowly_the_other_end_reads(
    counts_bytes: bool,
) -> None:
    served: list[Stream] = []
    over = asyncio.Event()

    async def serve(stream: Stream) -> None:
        served.append(stream)
        await over.wait()

    host, phone = await connected(lambda name: serve, counts_bytes=counts_bytes)
    stream = await host.open("any:")
    heard, transport, paused = Heard(), StreamTransport(stream), 0
    transport.set_protocol(heard)
    sent = bytes(range(256)) * 2000
    for at in range(0, len(sent), 999):
        transport.write(sent[at : at + 999])
        paused = max(paused, transport.get_write_buffer_size())
    assert paused  # more than a peer may leave unacknowledged
    transport.close()
    got = b""
    async with asyncio.timeout(60):
        while len(got) < len(sent):
            got += await served[0].read()
            await asyncio.sleep(0)
        await heard.lost.wait()
    assert got == sent
    over.set()
    for mux in (host, phone):
        await mux.close()


@pytest.mark.parametrize("counts_bytes", [False, True])
async def test_what_comes_while_nothing_is_read_is_held_back_and_then_told(counts_bytes: bool) -> None:
    sent = bytes(range(256)) * 2000

    async def speak(stream: Stream) -> None:
        await stream.write(sent)

    host, phone = await connected(lambda name: speak, counts_bytes=counts_bytes)
    phone.max_payload = 1000
    stream = await host.open("any:", window=10_000)
    heard, transport = Heard(), StreamTransport(stream)
    transport.pause_reading()
    transport.set_protocol(heard)
    async with asyncio.timeout(60):
        while len(transport._held) < (10_000 if counts_bytes else 1000):
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(transport._held) == (10_000 if counts_bytes else 1000)
    assert not heard.data
    transport.resume_reading()
    await asyncio.wait_for(heard.lost.wait(), 60)
    assert heard.data == sent
    for mux in (host, phone):
        await mux.close()


async def test_what_came_before_a_stream_is_a_transport_is_told_before_what_comes_after() -> None:
    async def speak(stream: Stream) -> None:
        stream.send(b"first, ")
        await stream.read()

    host, phone = await connected(lambda name: speak, counts_bytes=True)
    stream = await host.open("any:")
    async with asyncio.timeout(60):
        while not stream._chunks:
            await asyncio.sleep(0.01)
    heard, transport = Heard(), StreamTransport(stream)
    transport.set_protocol(heard)
    transport._came(b"second")
    await asyncio.sleep(0)
    assert heard.data == b"first, second"
    for mux in (host, phone):
        await mux.close()


async def test_what_a_reader_has_taken_is_acknowledged_with_what_is_sent_next() -> None:
    async def answer(stream: Stream) -> None:
        got = 0
        while got < ACKNOWLEDGED_WITH_DATA:
            got += len(await stream.read())
        stream.send(b"answer")
        await stream.read()

    host, phone = await connected(lambda name: answer, counts_bytes=True)
    stream = await host.open("any:")
    await stream.write(bytes(ACKNOWLEDGED_WITH_DATA))
    async with asyncio.timeout(60):
        assert await stream.read() == b"answer"
    assert stream.flow.room == stream.flow.granted
    for mux in (host, phone):
        await mux.close()
