"""What the host hears of a device's own troubles, over a real connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device import wire_pb2 as pb
from crowdlearn_device.serve import serve_device
from crowdlearn_device.wire import VERSION, decode_frame
from websockets.asyncio.client import connect


async def test_a_device_without_storage_tells_the_host_and_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    np.savez(tmp_path / "data" / "train.npz", inputs=inputs, labels=labels)
    (tmp_path / "runs").write_bytes(b"")  # no run can have a folder below it
    stopping = asyncio.Event()
    serving = asyncio.create_task(serve_device(tmp_path, tmp_path / "data", "phone", 0, stopping))
    while not (tmp_path / "port").exists():
        await asyncio.sleep(0)
    port = (tmp_path / "port").read_text().strip()
    async with connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
        await connection.recv()
        welcome = pb.Frame(welcome=pb.Welcome(version=VERSION, run="run", id=bytes(16), device=0))
        await connection.send(welcome.SerializeToString())
        said = await connection.recv()
        assert isinstance(said, bytes)
        fault = decode_frame(said).fault
        assert fault.kind == pb.FAULT_DEVICE
        assert "this device's storage failed (Not a directory)" in fault.reason
    assert "this device's storage failed" in caplog.text
    stopping.set()
    await asyncio.wait_for(serving, 30)
