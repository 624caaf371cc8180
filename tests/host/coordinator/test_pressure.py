"""A host that is behind takes on no new groups, and loses none that has begun."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame
from crowdlearn_device.transport.serve import TRY_LATER
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.hub.admission import Seats
from crowdlearn_host.coordinator.hub.pressure import AGAIN_SECONDS, LOOKS, Pressure
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


def test_a_host_is_judged_by_what_lasts_and_recovers_before_it_takes_on_more():
    pressure = Pressure(most_late=0.2)
    for _ in range(LOOKS - 1):
        pressure.look(9.0)
    assert not pressure.heavy  # nobody knows yet
    for late in [0.0] * LOOKS + [9.0] * (LOOKS // 2 - 1):
        pressure.look(late)
    assert (pressure.heavy, pressure.longest) == (False, 9.0)
    for late, heavy in ((0.21, True), (0.15, True), (0.09, False), (0.15, False)):
        for _ in range(LOOKS):
            pressure.look(late)
        assert pressure.heavy == heavy, late


def test_the_number_of_a_device_that_was_refused_is_given_to_the_next():
    seats = Seats({}, [], [2, 0, 1])
    assert [seats.number(name, None)[0] for name in ("a", "b")] == [2, 0]
    seats.forget("a")
    assert [seats.number(name, None)[0] for name in ("c", "d", "e")] == [2, 1, 3]


@asynccontextmanager
async def a_host(folder):
    """Two groups of one device each."""
    settings = Settings((((0, 1),),), ("",), 1, 4, 4, 1, 0.1, 0, 1, devices=1, alone=False)
    with RunFolder(folder, create=True) as run:
        shared = SharedModel([ArraySpec("w", 0, (), trained=True)], {"w": np.zeros(1, np.float32)})
        groups = [Group(settings), Group(settings)]
        server = Server("run", groups, run, shared, lambda *_: None, lambda *_: None)

        async def attach(connection: ServerConnection) -> None:
            await server.attach(connection, dialled=False)

        async with serve(attach, "127.0.0.1", 0, compression=None) as port:
            yield server, f"ws://127.0.0.1:{port.sockets[0].getsockname()[1]}"
            await server.close()


async def greeted(connection, name: str) -> pb.Frame:
    hello = pb.Hello(version=VERSION, device=name, identity=name.encode() * 4, samples=8)
    await connection.send(pb.Frame(hello=hello).SerializeToString())
    return decode_frame(await asyncio.wait_for(connection.recv(), 30))


async def test_new_groups_wait_until_a_host_has_less_to_do_and_those_under_way_go_on(tmp_path):
    async with a_host(tmp_path / "run") as (server, url):
        async with connect(url, compression=None) as first:
            assert (await greeted(first, "phone--0")).welcome.id
            for _ in range(LOOKS):
                server.pressure.look(10.0)
            async with connect(url, compression=None) as second:
                told = await greeted(second, "phone--1")
                assert AGAIN_SECONDS[0] <= told.welcome.again_seconds <= AGAIN_SECONDS[1]
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(second.recv(), 30)
                assert second.close_code == TRY_LATER
            assert server.pressure.put_off == 1
            assert decode_frame(await asyncio.wait_for(first.recv(decode=False), 30)).HasField("assign")
        async with connect(url, compression=None) as again:  # its group has begun
            assert (await greeted(again, "phone--0")).welcome.id
        for _ in range(LOOKS):
            server.pressure.look(0.0)
        async with connect(url, compression=None) as second:
            welcome = (await greeted(second, "phone--1")).welcome
            assert (welcome.device, welcome.again_seconds) == (1, 0)
