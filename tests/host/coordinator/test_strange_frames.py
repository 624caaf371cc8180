"""Over real connections: no device speaks for another, reaches another group, or takes another's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame, encode_frame
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import FleetError
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from .crowd import TWO_PIECES, settings_for
from .crowd_parties import shared_model

SECONDS = 30


@dataclass
class Hosted:
    """A server of two groups, of devices 0 and 1 and devices 2 and 3, and a connection of each."""

    server: Server
    devices: list[ClientConnection] = field(default_factory=list)
    refused: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    sent_away: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    address: str = ""

    async def come(self, number: int, **changes: Any) -> ClientConnection:
        """Connect as a device, or as one that says it is."""
        connection = await connect(self.address, compression=None)
        hello = {"version": VERSION, "device": f"phone-{number}", "identity": bytes([number]) * 32}
        frame = pb.Frame(hello=pb.Hello(**{**hello, "samples": 5, **changes}))
        await connection.send(frame.SerializeToString())
        return connection


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[Hosted]:
    async with AsyncExitStack() as stack:
        groups = [Group(settings_for(TWO_PIECES, 2)) for _ in range(2)]
        opened = stack.enter_context(RunFolder(folder / "run", create=True))

        def on_event(event: str, fields: dict[str, Any]) -> None:
            if event == "refused":
                host.refused.put_nowait(fields["reason"])

        host = Hosted(Server("run", groups, opened, shared_model(), on_event, lambda *_: None))

        async def handle(connection: ServerConnection) -> None:
            try:
                await host.server.attach(connection, dialled=False)
            except FleetError as error:
                host.sent_away.put_nowait(str(error))

        serving = await stack.enter_async_context(serve(handle, "127.0.0.1", 0))
        host.address = f"ws://127.0.0.1:{next(iter(serving.sockets)).getsockname()[1]}"
        for number in range(4):
            host.devices.append(await host.come(number))
            assert decode_frame(await host.devices[-1].recv(decode=False)).welcome.device == number
        yield host


def envelope(sender: int, receiver: int, sealed: bytes, generation: int = 1) -> bytes:
    told = pb.Envelope(generation=generation, sender=sender, receiver=receiver, sealed=sealed)
    return encode_frame(pb.Frame(envelope=told))


async def next_envelope(connection: ClientConnection) -> bytes:
    while not (frame := decode_frame(await connection.recv(decode=False))).HasField("envelope"):
        pass
    return frame.envelope.sealed


async def test_an_envelope_in_another_name_reaches_nobody(tmp_path: Path) -> None:
    async with asyncio.timeout(SECONDS), hosted(tmp_path) as host:
        await host.devices[0].send(envelope(1, 1, b"forged"))
        await host.devices[0].send(envelope(0, 1, b"its own"))
        assert await next_envelope(host.devices[1]) == b"its own"
        assert await host.refused.get() == "envelope in the name of device 1"


async def test_an_envelope_to_another_group_reaches_nobody(tmp_path: Path) -> None:
    async with asyncio.timeout(SECONDS), hosted(tmp_path) as host:
        assert [group.generation for group in host.server.groups] == [1, 1]
        await host.devices[0].send(envelope(0, 2, b"foreign"))
        assert await host.refused.get() == "envelope to device 2, which is not of its group"
        await host.devices[3].send(envelope(3, 2, b"of the group"))
        assert await next_envelope(host.devices[2]) == b"of the group"


async def test_envelopes_go_to_the_connection_and_the_generation_of_now_whatever_way_others_took(
    tmp_path: Path,
) -> None:
    async with asyncio.timeout(SECONDS), hosted(tmp_path) as host:
        for text in (b"first", b"the same way"):
            await host.devices[0].send(envelope(0, 1, text))
            assert await next_envelope(host.devices[1]) == text
        again = await host.come(1)
        assert decode_frame(await again.recv(decode=False)).welcome.device == 1
        now = host.server.groups[0].generation
        assert now > 1
        await host.devices[0].send(envelope(0, 1, b"late"))
        await host.devices[0].send(envelope(0, 1, b"of now", now))
        assert await next_envelope(again) == b"of now"
        sender = host.server.connection(0)
        assert sender is not None
        assert {(route.generation, route.to) for route in sender.routes.values()} == {
            (now, host.server.connection(1))
        }


@pytest.mark.parametrize(("piece", "sender"), [(1, 0), (0, 1), (7, 0)])
async def test_a_snapshot_of_what_a_device_does_not_hold_is_not_kept(
    tmp_path: Path, piece: int, sender: int
) -> None:
    async with asyncio.timeout(SECONDS), hosted(tmp_path) as host:
        group, kept = host.server.groups[0], tmp_path / "run" / "snapshots"
        said: dict[str, Any] = {"generation": 1, "boundary": 3, "piece": piece}
        said |= {"sender": group.holders[sender]}
        snapshot = pb.Snapshot(**said, sealed=b"x")
        await host.devices[group.holders[0]].send(pb.Frame(snapshot=snapshot).SerializeToString())
        assert await host.refused.get() == f"snapshot of piece {piece} that is not its own"
        assert not group.restore_points.snapshots
        assert not list(kept.iterdir())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identity": b"other" + bytes(27)}, "phone-1 has another identity than when it joined"),
        ({"samples": 4}, "phone-1 holds 4 samples, 5 when it joined"),
    ],
)
async def test_who_comes_again_as_another_does_not_take_its_place(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    async with asyncio.timeout(SECONDS), hosted(tmp_path) as host:
        other = await host.come(1, **changes)
        assert reason in await host.sent_away.get()
        await other.wait_closed()
        await host.devices[0].send(envelope(0, 1, b"as before"))
        assert await next_envelope(host.devices[1]) == b"as before"
