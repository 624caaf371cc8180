"""The host's event loop is libuv's where uvloop is installed, and Python's own elsewhere."""

import asyncio
import sys

import pytest
from crowdlearn_host.common import event_loop
from crowdlearn_host.devices.joining.accepting import accepting
from crowdlearn_host.devices.joining.lobby import Strangers
from crowdlearn_host.errors import FleetError
from websockets.asyncio.server import ServerConnection


async def loop_and_echo() -> tuple[str, bytes]:
    """Return the module of the running loop, and what a socket of it echoed."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    told = await reader.readexactly(5)
    writer.close()
    server.close()
    return type(asyncio.get_running_loop()).__module__, told


def test_it_is_libuvs_where_that_is_installed():
    pytest.importorskip("uvloop", reason="uvloop has no package for this system")
    module, told = event_loop.run(loop_and_echo())
    assert module.startswith("uvloop")
    assert told == b"hello"


def test_it_is_pythons_own_without(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    module, told = event_loop.run(loop_and_echo())
    assert module.startswith("asyncio")
    assert told == b"hello"


def test_the_callers_loop_and_policy_stay_as_they_are():
    policy = asyncio.get_event_loop_policy()
    event_loop.run(asyncio.sleep(0))
    assert asyncio.get_event_loop_policy() is policy


def test_an_interrupt_ends_it_as_pythons_does():
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        event_loop.run(interrupted())


async def opened() -> None:
    """Open a port for devices, and close it."""

    async def nobody(connection: ServerConnection) -> None:
        pass

    async with accepting(nobody, "127.0.0.1:0", None, Strangers()) as port:
        assert port > 0


def test_devices_dial_in_to_pythons_own_whose_door_looks_at_connections_first():
    event_loop.run(opened(), dialled=True)
    uvloop = pytest.importorskip("uvloop", reason="uvloop has no package for this system")
    with pytest.raises(FleetError, match="Python's own event loop"):
        event_loop.run(opened())
    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # as Ray's workers have it
    try:
        event_loop.run(opened(), dialled=True)
    finally:
        asyncio.set_event_loop_policy(before)
