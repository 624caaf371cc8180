"""A device that is asked to stop, or whose battery is low, says so and goes when the host lets it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.battery import Battery
from crowdlearn_device.serve import serve_device
from crowdlearn_device.wire import VERSION, decode_frame
from websockets.asyncio.client import ClientConnection, connect


async def taken(connection: ClientConnection) -> pb.Frame:
    data = await connection.recv()
    assert isinstance(data, bytes)
    return decode_frame(data)


async def test_a_device_that_is_stopped_leaves_before_it_ends(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    np.savez(tmp_path / "data" / "train.npz", inputs=inputs, labels=labels)
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve_device(tmp_path, tmp_path / "data", "phone", 0, stopping))
    while not (tmp_path / "port").exists():
        await asyncio.sleep(0)
    port = (tmp_path / "port").read_text().strip()
    async with connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        welcome = pb.Welcome(version=VERSION, run="run", id=bytes(16), device=0)
        await connection.send(pb.Frame(welcome=welcome).SerializeToString())
        stopping.set()
        assert (await taken(connection)).leave.reason == "stopped on the device"
        assert not serving.done()
        await connection.send(pb.Frame(finish=pb.Finish(reason="left as it asked")).SerializeToString())
        await asyncio.wait_for(serving, 30)


def show_battery(folder: Path, percent: int, status: str) -> Battery:
    (folder / "power" / "battery").mkdir(parents=True, exist_ok=True)
    for name, text in (("type", "Battery"), ("status", status), ("capacity", str(percent))):
        (folder / "power" / "battery" / name).write_text(text + "\n")
    return Battery(lowest=15, supplies=folder / "power")


async def test_a_device_whose_battery_runs_low_leaves_and_comes_again_when_it_is_charged(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    np.savez(tmp_path / "data" / "train.npz", inputs=inputs, labels=labels)
    battery = show_battery(tmp_path, 40, "Discharging")
    stopping = asyncio.Event()
    serving = asyncio.create_task(
        serve_device(tmp_path, tmp_path / "data", "phone", 0, stopping, battery, every=0.01)
    )
    while not (tmp_path / "port").exists():
        await asyncio.sleep(0)
    url = f"ws://127.0.0.1:{(tmp_path / 'port').read_text().strip()}/"
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        show_battery(tmp_path, 15, "Discharging")
        assert (await taken(connection)).leave.reason == "battery at 15 %"
        await connection.send(pb.Frame(finish=pb.Finish(reason="left as it asked")).SerializeToString())
        await connection.wait_closed()
    async with connect(url, compression=None) as connection:
        await connection.wait_closed()
        assert connection.close_reason == "battery at 15 %"
    show_battery(tmp_path, 15, "Charging")
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
    stopping.set()
    await asyncio.wait_for(serving, 30)


async def test_a_device_without_a_host_stops_at_once(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    stopping.set()
    await asyncio.wait_for(serve_device(tmp_path, tmp_path / "data", "phone", 0, stopping), 30)
