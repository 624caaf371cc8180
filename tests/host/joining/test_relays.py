"""Relay processes: devices are sent there by their group, and a relay that dies loses nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.hub.arrival import Dialled
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.devices.relays.engines.local import Local
from crowdlearn_host.devices.relays.relayed_stream import RelayedArrival
from crowdlearn_host.devices.relays.relays import Pool, relaying
from crowdlearn_host.errors import FleetError
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.crowd_device import LightDevice, Load
from benchmarks.scale import SIZE, WEIGHTS, settings_of

GROUPS, SAMPLES = 3, 8


@dataclass
class Crowd:
    """A host with two relay processes, and its devices."""

    server: Server
    pool: Pool
    port: int
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def over(self, serving: list[asyncio.Task[None]]) -> None:
        """Wait until all groups are done, and their devices have heard of it."""
        async with asyncio.timeout(120):
            await self.server.over.wait()
            await self.server.close()
            await asyncio.gather(*serving)

    async def until(self, event: str, times: int = 1) -> None:
        """Wait until an event has been told so often."""
        async with asyncio.timeout(60):
            while sum(told == event for told, _ in self.events) < times:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def crowd(folder: Path) -> AsyncIterator[Crowd]:
    groups = [Group(settings_of(SIZE, SIZE)) for _ in range(GROUPS)]
    with RunFolder(folder, create=True) as opened:
        shared = SharedModel([WEIGHTS], {"w": np.zeros(SIZE, np.float32)})
        events: list[tuple[str, dict[str, Any]]] = []
        server = Server("run", groups, opened, shared, lambda *told: events.append(told), lambda *_: None)

        async def relayed(arrival: RelayedArrival) -> None:
            try:
                await server.attach(arrival, dialled=False, number=int(arrival.path[1:]))
            except FleetError:
                await arrival.close(1008, "")

        async def handle(connection: ServerConnection) -> None:
            number = int(connection.request.path[1:]) if connection.request else None
            await server.attach(Dialled(connection, may_move=True), dialled=False, number=number)

        async with (
            relaying(2, server, "127.0.0.1", None, relayed) as pool,
            serve(handle, "127.0.0.1", 0, compression=None) as serving,
        ):
            server.relays = pool
            yield Crowd(server, pool, next(iter(serving.sockets)).getsockname()[1], events)


async def test_what_devices_send_each_other_goes_through_relays_and_is_counted(tmp_path):
    devices = [LightDevice(f"device-{n}", SAMPLES, Load(4, 100)) for n in range(GROUPS * SIZE)]
    async with crowd(tmp_path / "run") as host:
        serving = [asyncio.create_task(each.serve(host.port, n)) for n, each in enumerate(devices)]
        await host.over(serving)
    assert [group.phase for group in host.server.groups] == ["done"] * GROUPS
    rows = host.server.traffic.rows()
    for way in ("up", "down"):
        told = sum(
            int(row["messages"])
            for row in rows
            if row["direction"] == way and row["purpose"] in ("activation", "error", "shuffle")
        )
        assert told == sum(device.sent for device in devices)


@pytest.mark.parametrize("moment", ["joined", "progress"])
async def test_a_relay_that_is_killed_is_started_again_and_no_mini_batch_is_lost(tmp_path, moment):
    devices = [LightDevice(f"device-{n}", SAMPLES, Load(16, 100)) for n in range(GROUPS * SIZE)]
    async with crowd(tmp_path / "run") as host:
        serving = [asyncio.create_task(each.serve(host.port, n)) for n, each in enumerate(devices)]
        ticking = asyncio.create_task(host.server.ticking())
        await host.until(moment)
        first = host.pool.pids
        os.kill(first[0], signal.SIGKILL)
        await host.until("relay_ended")
        await host.over(serving)
        await ticking
    assert [group.phase for group in host.server.groups] == ["done"] * GROUPS
    for group in range(GROUPS):
        trained = set().union(*(device.trained for device in devices[group * SIZE : (group + 1) * SIZE]))
        assert trained == set(range(1, SAMPLES * SIZE + 1))


async def test_a_relay_whose_start_is_given_up_is_ended(monkeypatch):
    started: list[subprocess.Popen[bytes]] = []
    begin = subprocess.Popen

    def begun(*given: Any, **more: Any) -> subprocess.Popen[bytes]:
        started.append(begin(*given, **more))
        return started[-1]

    monkeypatch.setattr("crowdlearn_host.devices.relays.engines.local.subprocess.Popen", begun)
    starting = asyncio.create_task(Local().start("127.0.0.1", None))
    while not started:
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert started[0].returncode is not None


async def test_a_mistake_of_the_host_with_a_relay_ends_the_run(tmp_path, monkeypatch):
    """It ended the keeper of that relay alone, and nobody was told."""

    go = asyncio.Event()

    async def listen(self: object) -> None:
        await go.wait()
        raise TypeError("a mistake")

    monkeypatch.setattr("crowdlearn_host.devices.relays.relays._Place.listen", listen)
    async with crowd(tmp_path / "run") as host:
        go.set()
        await asyncio.wait_for(host.server.over.wait(), 60)
        assert isinstance(host.server.error, TypeError)


async def test_a_process_that_cannot_listen_is_told(tmp_path):
    groups = [Group(settings_of(SIZE, SIZE))]
    with RunFolder(tmp_path / "run", create=True) as opened:
        shared = SharedModel([WEIGHTS], {"w": np.zeros(SIZE, np.float32)})
        server = Server("run", groups, opened, shared, lambda *_: None, lambda *_: None)
        with pytest.raises(FleetError, match=r"host\.invalid"):
            async with relaying(1, server, "host.invalid", None, lambda arrival: arrival.close(1000, "")):
                pass
