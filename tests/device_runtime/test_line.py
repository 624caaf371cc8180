"""What a line says arrives in order, lane by lane, and a slow receiver leaves no room."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from crowdlearn_device.transport.outbound_queue import ROOM_BYTES, Line
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve


@asynccontextmanager
async def a_line() -> AsyncIterator[tuple[Line, ClientConnection]]:
    """A line, and the device's end of it."""
    made: asyncio.Future[Line] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        line = Line(connection)
        draining = asyncio.create_task(line.drain())
        made.set_result(line)
        await connection.wait_closed()
        draining.cancel()

    async with (
        serve(handle, "127.0.0.1", 0, compression=None) as server,
        connect(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", compression=None) as device,
    ):
        yield await made, device


async def test_frames_keep_their_order():
    async with a_line() as (line, device):
        for text in (b"keys", b"1", b"go", b"2"):
            line.put(text)
        assert [await device.recv() for _ in range(4)] == [b"keys", b"1", b"go", b"2"]


async def test_what_goes_express_overtakes_what_waits_and_nothing_else():
    async with a_line() as (line, device):
        for number in range(300):
            line.put(number.to_bytes(2, "big") + bytes(100_000))
        await asyncio.sleep(0)  # let the line fill the connection
        line.put(b"express 1", express=True)
        line.put(b"express 2", express=True)
        got = [await device.recv() for _ in range(302)]
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
