"""What a device says to its host over a real connection, and when it goes."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.cli import main
from crowdlearn_device.data.dataset import Dataset, load_dataset
from crowdlearn_device.platform.battery import Battery, DeviceState
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame
from crowdlearn_device.security.daily_use import DailyUse
from crowdlearn_device.transport.host_token import token_of
from crowdlearn_device.transport.serve import serve_device
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as dial
from websockets.exceptions import InvalidStatus

WELCOME = pb.Frame(welcome=pb.Welcome(version=VERSION, run="run", id=bytes(16), device=0))
FINISH = pb.Frame(finish=pb.Finish(reason="left as it asked"))


def connect(url: str, **more: Any) -> dial:
    """Dial a device as its host does, which knows the token in its home."""
    home, _, address = url.rpartition("|")
    headers = {"Authorization": f"Bearer {(Path(home) / 'token').read_text().strip()}"}
    return dial(address, **{"additional_headers": headers, **more})


async def serving(
    folder: Path, stopping: asyncio.Event, *more: Any, **options: Any
) -> tuple[asyncio.Task[None], str]:
    """A device in `folder` with three samples, and the address where it listens."""
    (folder / "data").mkdir()
    inputs, labels = np.zeros((3, 2), np.float32), np.zeros(3, np.int64)
    np.savez(folder / "data" / "train.npz", inputs=inputs, labels=labels)
    task = asyncio.create_task(serve_device(folder, folder / "data", "phone", 0, stopping, *more, **options))
    while not (folder / "port").exists():
        await asyncio.sleep(0)
    return task, f"{folder}|ws://127.0.0.1:{(folder / 'port').read_text().strip()}/"


async def taken(connection: ClientConnection) -> pb.Frame:
    data = await connection.recv()
    assert isinstance(data, bytes)
    return decode_frame(data)


async def test_a_device_without_storage_tells_the_host_and_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "runs").write_bytes(b"")  # no run can have a folder below it
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        await connection.send(WELCOME.SerializeToString())
        fault = (await taken(connection)).fault
        assert fault.kind == pb.FAULT_DEVICE
        assert "this device's storage failed (Not a directory)" in fault.reason
    assert "this device's storage failed" in caplog.text
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_a_device_that_is_stopped_leaves_before_it_ends(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        await connection.send(WELCOME.SerializeToString())
        stopping.set()
        assert (await taken(connection)).leave.reason == "stopped on the device"
        assert not device.done()
        await connection.send(FINISH.SerializeToString())
        await asyncio.wait_for(device, 30)


@pytest.mark.parametrize("shown", [None, "Bearer guessed", "Bearer ", "its token"])
async def test_other_programs_of_the_phone_get_nothing_without_the_token(
    tmp_path: Path, shown: str | None
) -> None:
    (tmp_path / "token").write_text("the token\n")
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    headers = {} if shown is None else {"Authorization": shown}
    with pytest.raises(InvalidStatus, match="401"):
        await connect(url, compression=None, additional_headers=headers)
    headers = {"Authorization": "Bearer the token"}
    async with connect(url, compression=None, additional_headers=headers) as connection:
        assert (await taken(connection)).hello.device == "phone"
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_a_device_without_a_token_makes_one_and_serves_no_web_page(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    assert stat.S_IMODE((tmp_path / "token").stat().st_mode) == 0o600
    with pytest.raises(InvalidStatus, match="401"):
        await connect(url, compression=None, additional_headers={})
    with pytest.raises(InvalidStatus, match="403"):
        await connect(url, compression=None, origin="https://example.org")
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
    (tmp_path / "token").write_text("")
    for shown in ("Bearer ", "Bearer \u00e9"):
        with pytest.raises(InvalidStatus, match="401"):
            await connect(url, compression=None, additional_headers={"Authorization": shown})
    stopping.set()
    await asyncio.wait_for(device, 30)


def test_a_token_that_others_can_read_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = tmp_path / "token"
    command = ["join", "wss://127.0.0.1:1", "--pin", "0" * 64, "--name", "phone", "--home", str(tmp_path)]
    for content, mode, told in (("secret", 0o644, f"chmod 600 {token}"), ("\n", 0o600, "is empty")):
        token.write_text(content)
        token.chmod(mode)
        assert main([*command, "--token-file", str(token)]) == 1
        assert told in capsys.readouterr().err
    token.write_text("secret\n")
    assert token_of(token) == "secret"


def show_battery(folder: Path, percent: int, status: str) -> Battery:
    (folder / "power" / "battery").mkdir(parents=True, exist_ok=True)
    for name, text in (("type", "Battery"), ("status", status), ("capacity", str(percent))):
        (folder / "power" / "battery" / name).write_text(text + "\n")
    return Battery(lowest=15, supplies=folder / "power")


async def test_a_device_whose_battery_runs_low_leaves_and_comes_again_when_it_is_charged(
    tmp_path: Path,
) -> None:
    battery = show_battery(tmp_path, 40, "Discharging")
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping, battery, every=0.01)
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        show_battery(tmp_path, 15, "Discharging")
        assert (await taken(connection)).leave.reason == "battery at 15 %"
        await connection.send(FINISH.SerializeToString())
        await connection.wait_closed()
    async with connect(url, compression=None) as connection:
        await connection.wait_closed()
        assert connection.close_reason == "battery at 15 %"
    show_battery(tmp_path, 15, "Charging")
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
    stopping.set()
    await asyncio.wait_for(device, 30)


class Unseen:
    """A condition that can be read until it is `lost`."""

    lost = False

    def state(self) -> DeviceState:
        return DeviceState()

    def low(self) -> str:
        if self.lost:
            raise RuntimeError("Android does not answer")
        return ""


async def test_a_device_that_cannot_see_its_condition_leaves(tmp_path: Path) -> None:
    """The watch once ended without a word, and the device went on whatever became of its battery."""
    condition, stopping = Unseen(), asyncio.Event()
    device, url = await serving(tmp_path, stopping, condition, every=0.01)
    async with connect(url, compression=None) as connection:
        assert (await taken(connection)).hello.device == "phone"
        condition.lost = True
        reason = (await taken(connection)).leave.reason
        assert reason == "its own condition cannot be read: Android does not answer"
        await connection.send(FINISH.SerializeToString())
        await connection.wait_closed()
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_what_a_connection_used_counts_on_the_next_one(tmp_path: Path) -> None:
    """A host that hangs up early enough would else use as much as it likes."""
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    used, sent = 0, [WELCOME.SerializeToString(), pb.Frame(ping=pb.Ping(nonce=7)).SerializeToString()]
    for _ in range(3):
        async with connect(url, compression=None) as connection:
            for data in sent:
                await connection.send(data)
            hello, pong = await connection.recv(), await connection.recv()
        used += sum(map(len, (*sent, hello, pong)))
        async with asyncio.timeout(60):
            while DailyUse(tmp_path).bytes < used:
                await asyncio.sleep(0.01)
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_a_connection_that_was_replaced_changes_nothing_any_more(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    other = pb.Frame(welcome=pb.Welcome(version=VERSION, run="other", id=bytes(16), device=0))
    async with connect(url, compression=None) as old:
        assert (await taken(old)).hello.device == "phone"
        old.transport.pause_reading()  # it does not see that it is closed, as behind a cable that was pulled
        async with connect(url, compression=None) as new:
            assert (await taken(new)).hello.device == "phone"
            await old.send(other.SerializeToString())
            await new.send(WELCOME.SerializeToString())
            await new.send(pb.Frame(ping=pb.Ping(nonce=1)).SerializeToString())
            assert (await taken(new)).pong.nonce == 1
            assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
        old.transport.resume_reading()
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_a_host_that_hangs_up_while_samples_are_read_keeps_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody told the device of the end of that connection: it served it for ever, and never stopped."""
    reading, gone = threading.Event(), threading.Event()

    def slowly(*given: Any, **more: Any) -> Dataset:
        reading.set()
        gone.wait(60)
        return load_dataset(*given, **more)

    stopping = asyncio.Event()
    device, url = await serving(tmp_path, stopping)
    monkeypatch.setattr("crowdlearn_device.transport.serve.load_dataset", slowly)
    connection = await connect(url, compression=None)
    await asyncio.to_thread(reading.wait, 60)
    connection.transport.abort()
    await connection.wait_closed()
    for _ in range(100):  # the loop sees to the device's end, too
        await asyncio.sleep(0)
    gone.set()
    async with connect(url, compression=None) as again:
        assert (await taken(again)).hello.device == "phone"
    stopping.set()
    await asyncio.wait_for(device, 30)


async def test_a_device_without_a_host_stops_at_once(tmp_path: Path) -> None:
    stopping = asyncio.Event()
    stopping.set()
    await asyncio.wait_for(serve_device(tmp_path, tmp_path / "data", "phone", 0, stopping), 30)
