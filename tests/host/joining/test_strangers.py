"""The port faces the network: whoever has shown no token gets little memory, and cannot keep a device out."""

import asyncio
import hashlib
import socket
import ssl
import time
from pathlib import Path

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, encode_frame
from crowdlearn_device.security.identity import Identity
from crowdlearn_device.security.proof import answer, bound_to_pin, new_nonce
from crowdlearn_device.transport.join import REFUSED
from crowdlearn_device.transport.serve import TRY_LATER
from crowdlearn_host.coordinator.hub.arrival import Dialled
from crowdlearn_host.devices.joining import listener
from crowdlearn_host.devices.joining import lobby as door
from crowdlearn_host.devices.joining.enrolment import DAY_SECONDS, Enrolment
from crowdlearn_host.errors import SilentDevice
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError

from tests.host.joining.test_joining import a_host

LARGE = 4 << 20
IDENTITY = Identity.generate()
NONCE = new_nonce()


async def dial(port: int) -> ClientConnection:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await connect(f"wss://127.0.0.1:{port}", ssl=context, compression=None, proxy=None)


def hello(token: str) -> pb.Hello:
    return pb.Hello(
        version=VERSION, device="phone-1", identity=IDENTITY.public, samples=9, token=token, nonce=NONCE
    )


async def join(port: int, token: str) -> ClientConnection:
    device = await dial(port)
    await device.send(pb.Frame(hello=hello(token)).SerializeToString())
    asked = pb.Frame.FromString(await device.recv()).challenge
    pin = hashlib.sha256(device.transport.get_extra_info("ssl_object").getpeercert(True)).hexdigest()
    proof = answer(IDENTITY, hello(token), asked, bound_to_pin(pin))
    await device.send(pb.Frame(proof=proof).SerializeToString())
    assert pb.Frame.FromString(await device.recv()).HasField("welcome")
    return device


@pytest.mark.parametrize("wrong", ["another's key", "another host's certificate", "an earlier answer", ""])
async def test_who_copies_an_identity_is_not_let_in(tmp_path: Path, wrong: str) -> None:
    """Token, name and public key are right: what lacks is the private key, or that it was asked here."""
    token = Enrolment(tmp_path).enrol("phone-1")
    async with a_host(tmp_path) as port, await dial(port) as device:
        await device.send(pb.Frame(hello=hello(token)).SerializeToString())
        asked = pb.Frame.FromString(await device.recv()).challenge
        pin = hashlib.sha256(device.transport.get_extra_info("ssl_object").getpeercert(True)).hexdigest()
        identity = Identity.generate() if wrong == "another's key" else IDENTITY
        binding = bound_to_pin("00" * 32 if wrong == "another host's certificate" else pin)
        if wrong == "an earlier answer":
            asked.nonce = new_nonce()
        frame = pb.Frame(proof=answer(identity, hello(token), asked, binding))
        await device.send((frame if wrong else pb.Frame(go=pb.Go())).SerializeToString())
        with pytest.raises(ConnectionClosedError) as closed:
            await device.recv()
        assert "does not prove" in closed.value.rcvd.reason


async def test_a_revoked_device_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LOOK_SECONDS", 0.01)
    enrolment = Enrolment(tmp_path)
    token = enrolment.enrol("phone-1")
    async with a_host(tmp_path) as port, await join(port, token) as device:
        enrolment.revoke("phone-1")
        with pytest.raises(ConnectionClosedError):
            while True:
                await asyncio.wait_for(device.recv(), 60)


async def test_a_device_whose_token_is_over_comes_again_for_the_clock_may_be_wrong(tmp_path: Path) -> None:
    token = Enrolment(tmp_path, lambda: time.time() - 3 * DAY_SECONDS).enrol("phone-1", days=1)
    async with a_host(tmp_path) as port:
        for shown, code, why in ((token, TRY_LATER, "was good until 2"), (token + "x", REFUSED, "enrol it")):
            async with await dial(port) as device:
                await device.send(pb.Frame(hello=hello(shown)).SerializeToString())
                with pytest.raises(ConnectionClosedError) as closed:
                    await device.recv()
            assert closed.value.rcvd.code == code
            assert why in closed.value.rcvd.reason


async def test_a_device_that_hangs_up_before_it_is_answered_is_a_silent_one() -> None:
    """Not an error of this host, which it would tell with a traceback for each."""
    refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        await connection.wait_closed()
        with pytest.raises(SilentDevice) as told:
            await Dialled(connection).send(b"welcome")
        refused.set_result(str(told.value))

    async with serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        device = await connect(f"ws://127.0.0.1:{port}", proxy=None)
        device.transport.abort()
        assert "hung up" in await asyncio.wait_for(refused, 60)


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
            sock.settimeout(60)
            assert await asyncio.to_thread(sock.recv, 1) == b""
            sock.close()
        for stranger in handshaken[:2]:
            await asyncio.wait_for(stranger.wait_closed(), 60)
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
