"""Whom host and devices do not train with: other versions, and too few samples. They say so."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device.member.events import Received
from crowdlearn_device.member.handlers.table import handle
from crowdlearn_device.member.member import Member
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION
from crowdlearn_device.security.identity import Identity
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.errors import FleetError
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from .crowd import Crowd, settings_for
from .crowd_parties import shared_model

OLDER = VERSION - 1


@pytest.mark.parametrize(
    ("least", "version", "samples", "reason"),
    [
        (1, OLDER, 3, f"phone has protocol version {OLDER}, this host {VERSION}"),
        (1, VERSION, 0, "phone holds 0 training samples; give it 1 at least, or leave it out"),
        (
            2,
            VERSION,
            1,
            "phone holds 1 training samples; batch norm has no variance of one: give it 2 at least",
        ),
    ],
)
async def test_the_host_refuses_a_device_and_says_why(
    tmp_path: Path, least: int, version: int, samples: int, reason: str
) -> None:
    hello = pb.Hello(version=version, device="phone", identity=Identity.generate().public, samples=samples)

    async def device(connection: ServerConnection) -> None:
        await connection.send(pb.Frame(hello=hello).SerializeToString())
        await connection.wait_closed()

    with RunFolder(tmp_path / "run", create=True) as folder:
        server = Server(
            run="run",
            groups=[Group(settings_for(least_rows=least))],
            folder=folder,
            shared=shared_model(),
            on_event=lambda event, fields: None,
            on_checkpoint=lambda group, epoch, arrays: None,
        )
        async with (
            serve(device, "127.0.0.1", 0) as listening,
            connect(f"ws://127.0.0.1:{next(iter(listening.sockets)).getsockname()[1]}") as connection,
        ):
            with pytest.raises(FleetError, match=reason):
                await server.attach(connection, dialled=True)


def test_a_device_refuses_an_older_host(folder: Path) -> None:
    member: Member | None = Crowd(folder, settings_for()).phones[0].member
    assert member is not None
    said = handle(member, Received(pb.Frame(welcome=pb.Welcome(version=OLDER, run="run", device=0))))
    assert f"the server has protocol version {OLDER}, this device {VERSION}" in said[-1].fault.reason
