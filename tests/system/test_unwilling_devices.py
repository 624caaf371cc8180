"""Phones that are there and take no part: they are left in peace, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.claim import Claim, Holder
from crowdlearn_host.common.toml_files import parse_config
from crowdlearn_host.coordinator.group.effects import Effect
from crowdlearn_host.coordinator.group.events import Event, Joined, Received
from crowdlearn_host.coordinator.group.group import Group
from crowdlearn_host.coordinator.group.handlers.table import handle
from crowdlearn_host.coordinator.hub.server import Server
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.devices.carriers import adb as link
from crowdlearn_host.errors import FleetError, TrainingError
from crowdlearn_host.runs.prepare import prepare
from crowdlearn_host.runs.train import train
from crowdlearn_host.spec.run_spec import RunSpec

pytestmark = pytest.mark.system
LONG_SECONDS = 120
CONVOLUTION = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
"""
GRACE_SECONDS = 5.0
"""How long the others wait for the unwilling, who are asked meanwhile."""


@pytest.fixture(autouse=True)
def _asked_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "FIRST_RETRY", 0.05)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[int | None]:
    """How often each device was connected to."""
    counts: Counter[int | None] = Counter()
    attach = Server.attach

    async def counted(self: Server, *args: Any, number: int | None = None, **more: Any) -> Any:
        counts[number] += 1
        return await attach(self, *args, number=number, **more)

    monkeypatch.setattr(Server, "attach", counted)
    return counts


def run(folder: Path, infos: list[phones.PhoneInfo], **more: Any) -> list[tuple[str, dict[str, Any]]]:
    """Train one piece on the phones; what was told."""
    values = {
        "model": "mlp:64-8-10",
        "data": "digits",
        "group": {"pieces": 1},
        "training": {"epochs": 1, "batch": 64, "kernels": "by_size", "grace_seconds": GRACE_SECONDS},
        **more,
    }
    prepared = prepare(parse_config(values, RunSpec, "the test"), lambda *_: None)
    told: list[tuple[str, dict[str, Any]]] = []
    serials = [info.serial for info in infos]
    with RunFolder(folder / "run", create=True) as opened:
        training = train(prepared, serials, opened, lambda *event: told.append(event))
        asyncio.run(asyncio.wait_for(training, LONG_SECONDS))
    return told


def test_a_phone_low_on_battery_is_left_in_peace(tmp_path: Path, asked: Counter[int | None]) -> None:
    with phones.running(2, tmp_path) as infos:
        phones.drain(infos[1].name, 5, tmp_path)
        told = run(tmp_path, infos)
    assert asked[1] >= 3
    serial = f"({infos[1].serial})"
    about = [(event, f["reason"]) for event, f in told if str(f.get("device")).endswith(serial)]
    assert about == [("declined", "battery at 5 %")]
    deployed = Counter(fields["device"] for event, fields in told if event == "deployed")
    assert sorted(deployed.values()) == [1, 1]


def test_a_fleet_that_is_low_on_battery_ends_the_run(tmp_path: Path) -> None:
    with phones.running(2, tmp_path) as infos:
        for info in infos:
            phones.drain(info.name, 5, tmp_path)
        with pytest.raises(TrainingError, match=r"no device takes part.*battery at 5 %.*battery at 5 %"):
            run(tmp_path, infos)


def test_data_that_is_not_there_is_a_mistake_in_the_fleet(tmp_path: Path) -> None:
    with (
        phones.running(2, tmp_path) as infos,
        pytest.raises(FleetError, match=rf"({infos[0].serial}|{infos[1].serial}): .*/sdcard"),
    ):
        run(tmp_path, infos, device_data="/sdcard/tpyo")


@pytest.mark.parametrize(
    ("shape", "classes", "told"),
    [
        ((4, 4, 3), 4, r"a sample has shape \(4, 4, 3\).*transpose\(0, 3, 1, 2\)"),
        ((3, 4, 4), 5, "the data has a label 4, but the model distinguishes classes 0 to 3"),
    ],
)
def test_samples_on_a_phone_that_do_not_fit_the_model_are_refused(
    tmp_path: Path, shape: tuple[int, ...], classes: int, told: str
) -> None:
    (tmp_path / "net.py").write_text(CONVOLUTION)
    samples = io.BytesIO()
    np.savez(samples, inputs=np.zeros((80, *shape), np.float32), labels=np.arange(80) % classes)

    async def put(serial: str) -> None:
        async with await AdbDevice.connect(serial) as device:
            await device.push(samples.getvalue(), "/sdcard/photos/train.npz")

    with phones.running(2, tmp_path) as infos:
        for info in infos:
            asyncio.run(put(info.serial))
        with pytest.raises(TrainingError, match=f"too few devices are left.*{told}"):
            run(
                tmp_path,
                infos,
                model=f"{tmp_path}/net.py:net",
                data=None,
                device_data="/sdcard/photos",
                input_shape=[3, 4, 4],
                group={"pieces": 2},
            )


def test_a_phone_that_serves_another_run_is_not_taken_from_it(tmp_path: Path) -> None:
    held, over = threading.Event(), threading.Event()

    async def hold(serial: str) -> None:
        async with await AdbDevice.connect(serial) as device, Claim(device, Holder.here("other", b"id", 1.0)):
            held.set()
            await asyncio.to_thread(over.wait)

    with phones.running(2, tmp_path) as infos, ThreadPoolExecutor(1) as elsewhere:
        holding = elsewhere.submit(asyncio.run, hold(infos[1].serial))
        try:
            assert held.wait(LONG_SECONDS)
            with pytest.raises(FleetError, match=f"{infos[1].serial}.* serves the run 'other' of"):
                run(tmp_path, infos)
        finally:
            over.set()
        holding.result()


@pytest.mark.parametrize("unfit", [{1}, {0, 1}])
def test_a_phone_that_cannot_take_part_is_not_called_again(
    tmp_path: Path, asked: Counter[int | None], monkeypatch: pytest.MonkeyPatch, unfit: set[int]
) -> None:
    def faulty(group: Group, event: Event) -> list[Effect]:
        if not isinstance(event, Joined) or event.device.number not in unfit:
            return handle(group, event)
        device = event.device
        group.devices[device.number] = device
        group.attendance.came(device.number)
        fault = pb.Fault(kind=pb.FAULT_DATA, reason="its data is gone", fatal=True)
        return handle(group, Received(device.number, pb.Frame(fault=fault)))

    monkeypatch.setattr("crowdlearn_host.coordinator.hub.server.handle", faulty)
    with phones.running(2, tmp_path) as infos:
        if unfit == {1}:
            run(tmp_path, infos)
        else:
            with pytest.raises(TrainingError, match=r"no device is left.*its data is gone"):
                run(tmp_path, infos)
    assert asked == {0: 1, 1: 1}
