"""Streams behind an adb server end as those of the multiplexer do, also for who waits on them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.carriers import silence
from crowdlearn_host.adb.carriers.server import ServerConnection
from crowdlearn_host.errors import FleetError

pytest.importorskip("adbutils", reason="pip install 'crowdlearn[adb-server]'")

SECONDS = 60.0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What an adb server does for a stream: two requests, then bytes; `silent` takes and gives none."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        for _ in range(2):
            service = await reader.readexactly(int(await reader.readexactly(4), 16))
            writer.write(b"OKAY")
        if service in (b"silent", b"sync:"):
            await asyncio.sleep(60)
        if service != b"over":
            while data := await reader.read(1000):
                writer.write(data)
    writer.close()


@pytest.fixture
async def device() -> AsyncIterator[AdbDevice]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with AdbDevice("phone", ServerConnection("phone", port), frozenset({"shell_v2"})) as device:
        yield device
    server.close()


async def waiting(device: AdbDevice) -> tuple[asyncio.Task[bytes], asyncio.Task[None], asyncio.Task[object]]:
    """A reader, a writer and a command, all of which wait."""
    silent = await device.open("silent")
    reading = asyncio.ensure_future((await device.open("echo")).read())
    writing = asyncio.ensure_future(silent.write(bytes(64 << 20)))
    asking = asyncio.ensure_future(device.shell("sleep 1000"))
    await asyncio.sleep(0.2)
    assert not any(task.done() for task in (reading, writing, asking))
    return reading, writing, asking


async def test_a_stream_that_is_given_up_ends_for_who_waits(device: AdbDevice) -> None:
    stream = await device.open("echo")
    await stream.write(b"x")
    assert await stream.read() == b"x"
    reading = asyncio.ensure_future(stream.read())
    await asyncio.sleep(0.1)
    stream.abort()
    assert await asyncio.wait_for(reading, SECONDS) == b""
    assert await stream.read() == b""
    with pytest.raises(FleetError, match="closed during a write"):
        await stream.write(b"y")


async def test_whoever_waits_is_told_that_the_device_was_closed(device: AdbDevice) -> None:
    over = await device.open("over")
    assert await over.read() == b""
    tasks = await waiting(device)
    await device.close()
    for task in tasks:
        with pytest.raises(FleetError, match=r"connection was lost|closed during a write"):
            await asyncio.wait_for(task, SECONDS)
    assert await over.read() == b""
    with pytest.raises(FleetError, match="connection was lost"):
        await device.open("echo")


async def test_a_phone_that_falls_silent_behind_a_server_is_named(
    device: AdbDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "SILENCE_SECONDS", 0.2)
    with pytest.raises(FleetError, match=r"phone stopped answering: .* during the push of /data/x; wake"):
        await asyncio.wait_for(device.push(bytes(1 << 26), "/data/x"), SECONDS)


async def test_pumps_leave_before_what_they_carry_is_closed(
    device: AdbDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pumps() -> int:
        return sum(task.get_coro().__name__ == "pump" for task in asyncio.all_tasks())

    there: list[int] = []
    close = ServerConnection.close

    async def look_and_close(connection: ServerConnection) -> None:
        there.append(pumps())
        await close(connection)

    monkeypatch.setattr(ServerConnection, "close", look_and_close)
    sockets = [await device.open_socket("echo") for _ in range(4)]
    await asyncio.sleep(0.1)
    assert pumps() == 4
    await asyncio.wait_for(device.close(), SECONDS)
    assert there == [0]
    for sock in sockets:
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        sock.close()
