"""What a line says arrives in order, and a slow receiver holds its senders back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from crowdlearn_host.server.line import Line
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


async def test_relayed_frames_keep_their_place_behind_the_servers_own():
    async with a_line() as (line, device):
        line.put(b"keys")
        await line.relay(b"1")
        line.put(b"go")
        line.put(b"more")
        await asyncio.gather(line.relay(b"2"), line.relay(b"3"))
        await line.relay(b"4")
        got = [await device.recv() for _ in range(7)]
        assert got[:2] == [b"keys", b"1"]
        assert got[2:4] == [b"go", b"more"]
        assert sorted(got[4:6]) == [b"2", b"3"]
        assert got[6] == b"4"


async def test_a_receiver_that_does_not_read_holds_its_sender_back():
    async with a_line() as (line, device):
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 1000:
                async with asyncio.timeout(0.3):
                    await line.relay(b"x" * 100_000)
                sent += 1
        for _ in range(sent):
            assert len(await device.recv()) == 100_000
        await line.relay(b"there is room again")


async def test_a_device_that_has_gone_holds_nobody_back():
    async with a_line() as (line, device):
        await device.close()
        await line.relay(b"to nobody")
        line.put(b"to nobody")
        await line.relay(b"to nobody")
        await line.close()


async def test_closing_sends_what_was_put():
    async with a_line() as (line, device):
        line.put(b"last words")
        await line.close()
        assert await device.recv() == b"last words"
