"""Under TLS, too, what waits to be sent waits where express messages can overtake it, and little is kept."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from crowdlearn_device.transport.takeover import READ_UNDER_TLS, taken_over
from crowdlearn_host.devices.joining.certificate import certificate
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve


async def test_little_lies_below_the_lanes(tmp_path: Path) -> None:
    serving, _ = certificate(tmp_path)
    dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialling.check_hostname, dialling.verify_mode = False, ssl.CERT_NONE
    held = 0

    async def handle(connection: ServerConnection) -> None:
        below = connection.transport._ssl_protocol  # type: ignore[attr-defined]

        def look(_: bytes) -> None:
            nonlocal held
            held = max(held, below._transport.get_write_buffer_size() + below._outgoing.pending)

        line = taken_over(connection, look)
        for _ in range(3000):
            line.put(bytes(4000))
        await line.ended()

    async with (
        serve(handle, "127.0.0.1", 0, ssl=serving, compression=None) as server,
        connect(
            f"wss://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", ssl=dialling, compression=None
        ) as device,
    ):
        for _ in range(3000):
            await device.recv()
            await device.send(b"look")
    assert 0 < held < 16 << 10


@pytest.mark.parametrize("reads", [READ_UNDER_TLS, 4096])
async def test_little_room_is_kept_for_what_comes(tmp_path: Path, reads: int) -> None:
    """asyncio kept 256 kB for each of thousands of connections."""
    serving, _ = certificate(tmp_path)
    dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialling.check_hostname, dialling.verify_mode = False, ssl.CERT_NONE
    came: list[bytes] = []
    room: list[int] = []

    async def handle(connection: ServerConnection) -> None:
        line = taken_over(connection, came.append, reads=reads)
        await line.ended()
        room.append(len(connection.transport._ssl_protocol._ssl_buffer))  # type: ignore[attr-defined]

    sent = [bytes([k]) * 300_000 for k in range(5)]
    async with serve(handle, "127.0.0.1", 0, ssl=serving, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"wss://127.0.0.1:{port}", ssl=dialling, compression=None) as device:
            for message in sent:
                await device.send(message)
    assert came == sent
    assert room == [reads]
