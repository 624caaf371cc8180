"""The port faces the network: whoever has shown no token gets little memory, and cannot keep a device out."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, encode_frame
from crowdlearn_device.security.envelope import Identity
from crowdlearn_host.devices.joining import lobby as door
from crowdlearn_host.devices.joining.enrolment import Enrolment
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError

from tests.host.joining.test_joining import a_host

LARGE = 4 << 20
IDENTITY = Identity.generate().public


async def dial(port: int) -> ClientConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await connect(f"wss://127.0.0.1:{port}", ssl=context, compression=None, proxy=None)


def hello(token: str) -> bytes:
    body = pb.Hello(version=VERSION, device="phone-1", identity=IDENTITY, samples=9, token=token)
    return pb.Frame(hello=body).SerializeToString()


async def join(port: int, token: str) -> ClientConnection:
    device = await dial(port)
    await device.send(hello(token))
    assert pb.Frame.FromString(await device.recv()).HasField("welcome")
    return device


async def test_only_who_is_admitted_may_send_large_frames(tmp_path: Path) -> None:
    token = Enrolment(tmp_path).enrol("phone-1")
    async with a_host(tmp_path) as port:
        async with await dial(port) as stranger:
            with pytest.raises(ConnectionClosedError) as closed:
                await stranger.send(bytes(LARGE))
                await stranger.recv()
            assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        async with await join(port, token) as device:
            large = pb.Envelope(sender=0, receiver=7, sealed=bytes(LARGE))
            await device.send(encode_frame(pb.Frame(envelope=large)))
            await (await device.ping())
    assert "envelope to device 7" in (tmp_path / "run" / "events.jsonl").read_text()


async def test_a_crowd_of_strangers_is_hung_up_on_and_keeps_no_device_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_STRANGERS", 4)
    token = Enrolment(tmp_path).enrol("phone-1")
    async with a_host(tmp_path) as port, await join(port, token) as device:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
        handshaken = [await dial(port) for _ in range(6)]
        for sock in silent:
            sock.settimeout(10)
            assert await asyncio.to_thread(sock.recv, 1) == b""
            sock.close()
        for stranger in handshaken[:2]:
            await asyncio.wait_for(stranger.wait_closed(), 10)
        await (await device.ping())
        async with await join(port, Enrolment(tmp_path).enrol("phone-1")) as again:
            await (await again.ping())
        assert len([one for one in handshaken if one.close_code is None]) <= 4
        await asyncio.gather(*(stranger.close() for stranger in handshaken))


def test_one_host_cannot_fill_the_lobby_nor_come_too_often() -> None:
    strangers = door.Strangers()
    pairs = [socket.socketpair() for _ in range(door.MAX_OF_ADDRESS + 9)]
    strangers.knock(("192.0.2.1", 1), pairs[0][0])
    for number, (near, _) in enumerate(pairs[1:]):
        strangers.knock(("192.0.2.2", number), near)
    hung_up = [number for number, (_, far) in enumerate(pairs) if _is_hung_up(far)]
    assert hung_up == list(range(1, 9)), "the oldest of the host that has too many"
    let_in = [n for n in range(5000) if not strangers.turns_away(("192.0.2.3", n), now=n / 5000)]
    assert len(let_in) <= door.BURST + door.A_SECOND
    assert not strangers.turns_away(("192.0.2.4", 1), now=1.0)
    assert not strangers.turns_away(("192.0.2.3", 1), now=3.0)
    for near, far in pairs:
        near.close()
        far.close()


def _is_hung_up(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
