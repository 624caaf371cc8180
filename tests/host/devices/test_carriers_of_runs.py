"""Conformance of carriers: each brings a device to a run, and lets go of it when the run no longer asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.program.manifest import ArraySpec
from crowdlearn_device.transport.join import join_host
from crowdlearn_host import emulator
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.settings import Settings
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.coordinator.storage.shared_model import SharedModel
from crowdlearn_host.devices.carriers.base import Carrier, Reach
from crowdlearn_host.devices.carriers.registry import CARRIERS
from crowdlearn_host.devices.joining.certificate import certificate
from crowdlearn_host.devices.joining.enrolment import Enrolment
from crowdlearn_host.runs.data import load_split, to_npz
from crowdlearn_host.spec.run_spec import RunSpec

pytestmark = pytest.mark.system
WEIGHTS = ArraySpec("w", 0, (), trained=True)
LIMIT_SECONDS = 360
Events = list[tuple[str, dict[str, Any]]]
Brought = Callable[[Reach, Events], AbstractAsyncContextManager[Reach]]
"""Prepares a device, and changes what is reached so that the carrier finds it."""


@asynccontextmanager
async def by_adb(reach: Reach, events: Events) -> AsyncIterator[Reach]:
    with emulator.running(1, reach.home / "phones") as (phone,):
        files = {"data/train.npz": to_npz(load_split("digits", "test"))}
        yield replace(reach, serials=[phone.serial], numbers=[0], files_of=lambda place, name: files)


@asynccontextmanager
async def by_dialling(reach: Reach, events: Events) -> AsyncIterator[Reach]:
    token, (_, pin) = Enrolment(reach.home).enrol("phone-1"), certificate(reach.home)
    data = reach.home / "data"
    data.mkdir()
    (data / "train.npz").write_bytes(to_npz(load_split("digits", "test")))
    stopping = asyncio.Event()

    async def dial() -> None:
        while not (told := [fields for event, fields in events if event == "listening"]):
            await asyncio.sleep(0)
        url = f"wss://127.0.0.1:{told[0]['port']}"
        await join_host(reach.home / "device", data, "phone-1", url, token, pin, stopping)

    dialling = asyncio.create_task(dial())
    fleet = reach.config.fleet.model_copy(update={"listen": "127.0.0.1:0", "joining": 1})
    try:
        yield replace(reach, config=reach.config.model_copy(update={"fleet": fleet}))
    finally:
        stopping.set()
        await asyncio.wait_for(dialling, LIMIT_SECONDS)


WAYS: dict[str, Brought] = {"adb": by_adb, "dial-in": by_dialling}


def test_every_carrier_is_tried_here() -> None:
    assert {carrier.name for carrier in CARRIERS} == WAYS.keys()
    assert all(type(carrier).__doc__ for carrier in CARRIERS)


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: carrier.name)
async def test_a_carrier_brings_a_device_and_lets_go_of_it(carrier: Carrier, tmp_path: Path) -> None:
    settings = Settings((((0, 1),),) * 9, ("",) * 9, 1, 4, 4, 1, 0.1, 0, 1, devices=9)
    events: Events = []

    def heard(event: str, fields: dict[str, Any]) -> None:
        events.append((event, fields))

    with RunFolder(tmp_path / "run", create=True) as folder:
        shared = SharedModel([WEIGHTS], {"w": np.zeros(9, np.float32)})
        group = Group(settings)
        server = Server("run", [group], folder, shared, heard, lambda *_: None)
        config = RunSpec.model_validate({"data": "digits", "model": "mlp:64-10", "group": {"pieces": 1}})
        reach = Reach(server, config, heard, tmp_path)
        assert not carrier.wanted(reach)
        async with WAYS[carrier.name](reach, events) as found:
            assert carrier.wanted(found)
            async with asyncio.timeout(LIMIT_SECONDS), carrier.reaching(found) as links:
                while not group.live:
                    for link in links:
                        assert not link.done(), link.exception()
                    await asyncio.sleep(0.01)
            assert all(link.done() for link in links)
            async with asyncio.timeout(LIMIT_SECONDS):
                while group.live:
                    await asyncio.sleep(0.01)
        await server.close()
