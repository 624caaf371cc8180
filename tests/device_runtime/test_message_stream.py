"""Messages arrive whole and in order, lane by lane, and a slow receiver leaves no room."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import gettempdir

import pytest
from crowdlearn_device.protocol.frames import MAX_FRAME
from crowdlearn_device.transport import message_stream
from crowdlearn_device.transport.large_message import HEAD_BYTES, PART_BYTES, LargeMessage
from crowdlearn_device.transport.message_stream import ROOM_BYTES, MessageStream
from crowdlearn_device.transport.takeover import taken_over
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.utils import apply_mask


@asynccontextmanager
async def a_line(
    handler: Callable[[bytes], Awaitable[None] | None] = lambda data: None, limit: int = MAX_FRAME
) -> AsyncIterator[tuple[MessageStream, ClientConnection]]:
    """A stream of messages, and a library's end of it."""
    made: asyncio.Future[MessageStream] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        made.set_result(taken_over(connection, handler))
        await connection.wait_closed()

    async with (
        serve(handle, "127.0.0.1", 0, compression=None) as server,
        connect(
            f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", compression=None, max_size=limit
        ) as device,
    ):
        yield await made, device


async def test_frames_keep_their_order():
    async with a_line() as (line, device):
        for text in (b"keys", b"1", b"go", b"2"):
            line.put(text)
        assert [await device.recv() for _ in range(4)] == [b"keys", b"1", b"go", b"2"]


@pytest.mark.parametrize("ends", ["the server", "the client", "the connection"])
async def test_whoever_ends_a_connection_lets_the_message_under_way_go_out_whole(ends: str):
    """A closing frame between a message's bytes once made other bytes of it."""
    message = bytes(range(256)) * (32 << 10)
    served: asyncio.Future[MessageStream] = asyncio.get_running_loop().create_future()
    got: list[bytes] = []

    async def handle(connection: ServerConnection) -> None:
        stream = taken_over(connection, got.append)
        served.set_result(stream)
        await stream.ended()

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        address = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        connection = await connect(address, compression=None, max_size=MAX_FRAME)
        here: list[bytes] = []
        client = taken_over(connection, here.append)
        sender = await served if ends == "the server" else client
        sender.put(message)
        await asyncio.sleep(0)  # the first part is on its way
        assert sender.queued
        if ends == "the server":
            server.close(code=1001, reason="it stops")
        elif ends == "the client":
            await client.close(1001, "it stops")
        else:
            await connection.close(1001, "it stops")
        receiver = client if ends == "the server" else await served
        assert await receiver.ended() == "it stops"
        assert receiver.close_code == 1001
    assert (here if ends == "the server" else got) == [message]


async def test_a_connection_that_was_lost_before_it_is_taken_over_has_ended():
    """Its end was told to the library; nobody tells it again, and a handler once waited for it for ever."""
    got: list[bytes] = []
    served: asyncio.Future[MessageStream] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()  # as a device does that reads its samples meanwhile
        stream = taken_over(connection, got.append)
        served.set_result(stream)
        stream.put(b"hello")
        assert await stream.ended() == "the connection broke"

    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        address = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        device = await connect(address, compression=None)
        await device.send(b"words before")
        device.transport.close()
        stream = await served
        await stream.ended()
        await stream.close()
        assert stream.gone
    assert got == [b"words before"]


async def test_what_goes_express_overtakes_what_waits_and_nothing_else():
    async with a_line() as (line, device):
        for number in range(300):
            line.put(number.to_bytes(2, "big") + bytes(100_000))
        await asyncio.sleep(0)  # let the line fill the connection
        line.put(b"express 1", express=True)
        line.put(b"express 2", express=True)
        got = [await device.recv(decode=False) for _ in range(302)]
        others = [frame for frame in got if len(frame) > 9]
        assert [int.from_bytes(frame[:2], "big") for frame in others] == list(range(300))
        first, second = got.index(b"express 1"), got.index(b"express 2")
        assert first < second < 250


async def test_there_is_no_room_while_the_receiver_does_not_read():
    async with a_line() as (line, device):
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000:
                line.put(b"x" * 100_000)
                sent += 1
                async with asyncio.timeout(0.3):
                    await line.room()
        assert sent * 100_000 > ROOM_BYTES
        for _ in range(sent):
            assert len(await device.recv()) == 100_000
        await line.room()


async def test_a_long_message_is_forgotten_once_it_has_gone():
    """A relay lets the next one in when nobody has this one any more."""

    class Message(bytearray):
        __slots__ = ("__weakref__",)

    async with a_line() as (line, device):
        message = Message(3 * PART_BYTES)
        held = weakref.ref(message)
        line.put(message)  # type: ignore[arg-type]
        del message
        assert len(await device.recv()) == 3 * PART_BYTES
        async with asyncio.timeout(60):
            while held() is not None:
                await asyncio.sleep(0.01)


async def test_a_device_that_has_gone_holds_nobody_back():
    async with a_line() as (line, device):
        await device.close()
        line.put(bytes(2 * ROOM_BYTES))
        await line.room()
        line.put(bytes(2 * ROOM_BYTES))
        await line.room()
        await line.close()


async def test_closing_sends_what_was_put():
    async with a_line() as (line, device):
        line.put(b"last words")
        await line.close()
        assert await device.recv() == b"last words"


async def test_what_a_library_sends_comes_whole_and_in_order_however_it_is_cut():
    got: list[bytes] = []
    sizes = [0, 1, 125, 126, 65535, 65536, 300_000, 3_000_000]
    async with a_line(got.append) as (line, device):
        for size in sizes:
            await device.send(bytes([size % 251]) * size)
        await device.send([b"in ", b"three ", b"parts"])
        await (await device.ping(b"between"))
        assert [len(data) for data in got[:-1]] == sizes
        assert all(set(data) <= {len(data) % 251} for data in got[:-1])
        assert got[-1] == b"in three parts"
        for size in sizes:
            line.put(bytes(size))
        assert [len(await device.recv()) for _ in sizes] == sizes


async def test_no_more_is_taken_while_a_message_is_waited_for():
    let_go, got = asyncio.Event(), []

    async def slowly(data: bytes) -> None:
        got.append(data)
        await let_go.wait()

    async with a_line(slowly) as (_, device):
        sending = asyncio.create_task(device.send(b"first"))
        for number in range(200):
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sending), 0.2)
            if not sending.done():
                break
            sending = asyncio.create_task(device.send(number.to_bytes(1, "big") * 100_000))
        else:
            raise AssertionError("20 MB were taken")
        assert got == [b"first"]
        let_go.set()
        await sending
        await (await device.ping())
        assert [data[0] for data in got[1:]] == list(range(len(got) - 1))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (Frame(Opcode.TEXT, b"text").serialize(mask=True), 1002),
        (Frame(Opcode.CONT, b"of nothing").serialize(mask=True), 1002),
        (bytes((0x82, 0xFF)) + (MAX_FRAME + 1).to_bytes(8, "big"), 1002),
        (bytes((0x83, 0x80)) + bytes(4), 1002),
    ],
    ids=["text", "continuation", "too large", "unknown kind"],
)
async def test_what_is_no_message_ends_the_connection_with_the_reason(raw: bytes, code: int):
    async with a_line() as (line, device):
        device.transport.write(raw)
        with pytest.raises(ConnectionClosed) as closed:
            await device.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        assert await line.ended()
        assert line.gone


async def test_a_silent_connection_is_asked_and_then_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(message_stream, "PING_SECONDS", 0.02)
    async with a_line() as (line, device):
        for _ in range(3):
            heard = line._heard
            async with asyncio.timeout(60):
                while line._heard == heard:  # the library answers
                    await asyncio.sleep(0.01)
        assert not line.gone
        device.transport.pause_reading()
        monkeypatch.setattr(message_stream, "PONG_SECONDS", 0.1)
        assert "no answer" in await asyncio.wait_for(line.ended(), 60)
        device.transport.resume_reading()  # it sees the end


class Nothing(asyncio.Transport):
    """Takes what is written, and is never full."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def close(self) -> None:
        pass

    pause_reading = resume_reading = abort = close


@given(
    st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=12),
    st.lists(st.integers(1, 400), min_size=1),
)
async def test_bytes_may_come_in_any_pieces(messages: list[tuple[bytes, bool]], cuts: list[int]):
    got: list[bytes] = []
    stream = MessageStream(Nothing(), lambda data: got.append(data), client=False)
    wire = b"".join(Frame(Opcode.BINARY, data).serialize(mask=masked) for data, masked in messages)
    at, number = 0, 0
    while at < len(wire):
        stream.data_received(wire[at : at + cuts[number % len(cuts)]])
        at += cuts[number % len(cuts)]
        number += 1
    assert got == [data for data, _ in messages]
    stream.connection_lost(None)


async def test_a_peer_that_floods_makes_nothing_grow():
    stream = MessageStream(Nothing(), lambda data: None, client=False)
    stream.pause_writing()
    for _ in range(1000):
        stream.data_received(Frame(Opcode.PING, b"again").serialize(mask=True))
    assert len(stream._control) < 20
    fragment = Frame(Opcode.CONT, b"x", fin=False).serialize(mask=True)
    stream.data_received(Frame(Opcode.BINARY, b"x", fin=False).serialize(mask=True) + 5000 * fragment)
    assert "fragments" in stream.close_reason
    stream.connection_lost(None)


@given(st.binary(max_size=200))
async def test_noise_never_ends_in_a_traceback(noise: bytes):
    stream = MessageStream(Nothing(), lambda data: None, client=False)
    stream.data_received(noise)
    stream.connection_lost(None)


@given(st.lists(st.integers(0, 9000), max_size=6), st.lists(st.integers(1, 5000), min_size=1), st.booleans())
async def test_large_messages_wait_until_they_are_admitted_and_come_whole(
    sizes: list[int], cuts: list[int], on_disk: bool
):
    got: list[bytes] = []
    loop, transport = asyncio.get_running_loop(), Nothing()
    stream = MessageStream(transport, lambda data: got.append(bytes(data)), client=False)
    admitted: list[int] = []

    def admit(large: LargeMessage) -> asyncio.Future[None]:
        assert len(large.head) == HEAD_BYTES
        admitted.append(large.length)
        if on_disk:
            large.make_room_in(Path(gettempdir()))
        waiting: asyncio.Future[None] = loop.create_future()
        loop.call_soon(waiting.set_result, None)
        return waiting

    stream.admit = admit
    messages = [bytes(number % 251 for number in range(size)) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_stream, "LARGE_BYTES", 2000)
        wire = b"".join(Frame(Opcode.BINARY, data).serialize(mask=len(data) % 2 == 0) for data in messages)
        at, number = 0, 0
        while at < len(wire):
            stream.data_received(wire[at : at + cuts[number % len(cuts)]])
            at += cuts[number % len(cuts)]
            number += 1
            while stream._admitting is not None:
                await asyncio.sleep(0)
    assert got == messages
    assert set(admitted) <= {size for size in sizes if size > 2000}
    stream.connection_lost(None)


async def test_a_message_that_lies_on_disk_goes_out_whole_and_leaves_nothing(tmp_path: Path):
    data = bytes(number % 251 for number in range(3 * ROOM_BYTES + 7))
    large = LargeMessage(len(data), b"mask")
    large.add(apply_mask(data[:100], b"mask"))
    large.make_room_in(tmp_path)
    masked = apply_mask(data, b"mask")
    for at in range(100, len(data), 70_001):
        large.add(masked[at : at + 70_001])
    assert large.is_whole
    gone: list[bool] = []
    large.when_gone(lambda: gone.append(True))
    async with a_line() as (line, device):
        line.put(large.content())
        del large
        assert await device.recv() == data
        line.put(b"next")
        await device.recv()
    assert gone == [True]
    assert list(tmp_path.iterdir()) == []
