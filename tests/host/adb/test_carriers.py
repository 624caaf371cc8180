"""The same phone over other carriers: a blocking transport as USB has it, and an adb server."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice, AppDeployment, RuntimeDeployment
from crowdlearn_host.adb.carriers.connection import FullSendTransport, connect_blocking, parse_address
from crowdlearn_host.adb.carriers.server import server_devices, server_runs
from crowdlearn_host.adb.deployment import runtimes
from crowdlearn_host.adb.deployment.app import HOME as APP_HOME
from crowdlearn_host.adb.deployment.app import PACKAGE
from crowdlearn_host.adb.deployment.runtimes import Runtime, check_runtime
from crowdlearn_host.adb.deployment.shell import HOME
from crowdlearn_host.errors import FleetError
from crowdlearn_host.runs.checks.survey import survey

from tests.host.emulator.apks import apk
from tests.host.emulator.test_clients import CLIENTS, Client


async def check(device: AdbDevice) -> None:
    content = os.urandom(1_500_000)
    await device.push(content, "/data/local/tmp/carried")
    assert await device.pull("/data/local/tmp/carried") == content
    assert (await device.stat("/data/local/tmp/carried")).size == len(content)
    result = await device.shell("echo out; cat /nowhere; exit 4")
    assert (result.stdout, result.exit_code) == (b"out\n", 4)
    deployment = RuntimeDeployment(device)
    await deployment.start()
    sock = await deployment.connect()
    sock.setblocking(True)
    sock.close()
    await deployment.stop()
    with pytest.raises(FleetError):
        await device.open("tcp:1")


async def test_a_blocking_transport_carries_everything(phone: phones.PhoneInfo, key: Path) -> None:
    transport = FullSendTransport(*parse_address(phone.serial))
    mux, banner = await connect_blocking(transport, phone.serial, key=key)
    async with AdbDevice(phone.serial, mux, banner.features) as device:
        await check(device)


async def test_a_phone_on_usb_that_is_not_there_is_told() -> None:
    with pytest.raises(FleetError, match=r"libusb|no phone 'absent' on USB"):
        await AdbDevice.connect_usb("absent")


async def test_an_adb_server_carries_everything(phone: phones.PhoneInfo, tmp_path: Path) -> None:
    program, reason = CLIENTS["system"]
    if program is None or find_spec("adbutils") is None:
        pytest.skip(f"{reason}; pip install 'crowdlearn[adb-server]'")
    client = Client(program, tmp_path, phone.serial)
    client.connect()
    try:
        assert (phone.serial, "device") in [(d.serial, d.state) for d in server_devices(client.port)]
        async with await AdbDevice.connect_server(phone.serial, port=client.port) as device:
            await check(device)
        with pytest.raises(FleetError, match="the adb server answers"):
            await AdbDevice.connect_server("absent", port=client.port)
    finally:
        client("kill-server", device=False)
    while server_runs(client.port):
        pass  # it says goodbye before it is gone
    assert server_devices(client.port) == []


async def test_an_app_is_installed_or_refused_with_the_reason(
    phone: phones.PhoneInfo, key: Path, tmp_path: Path
) -> None:
    async with await AdbDevice.connect(phone.serial, key=key) as device:
        good, bad = tmp_path / "good.apk", tmp_path / "bad.apk"
        good.write_bytes(apk("org.example.good", padding=2_000_000))
        bad.write_bytes(b"no zip" * 100_000)
        await device.install_app(good)
        assert b"org.example.good" in (await device.shell("pm list packages")).stdout
        with pytest.raises(FleetError, match="INSTALL_PARSE_FAILED_NOT_APK"):
            await device.install_app(bad)
        await device.push(apk("org.example.older"), "/data/local/tmp/older.apk")
        assert (await device.shell("pm install /data/local/tmp/older.apk")).stdout == b"Success\n"
        assert b"codePath" in (await device.shell("dumpsys package org.example.older")).stdout


async def test_a_phone_that_cannot_have_the_runtime_is_told_before_anything_is_brought(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with phones.running(1, tmp_path, programs={}, preload=()) as (bare,):
        async with await AdbDevice.connect(bare.serial, key=key) as device:
            kinds: list[Runtime] = ["auto", "shell"]
            for runtime in kinds:
                await check_runtime(device, runtime)
            with pytest.raises(FleetError, match="is not installed; install it with adb, or do without"):
                await check_runtime(device, "app")
            monkeypatch.setattr(runtimes, "ABIS", {"x86_64": "x86_64"})
            with pytest.raises(FleetError, match="no bundle for arm64-v8a; there are: x86_64"):
                await check_runtime(device, "auto")
            assert not (await device.shell(f"ls {HOME}")).stdout
        told = f"{bare.serial}: .*no bundle for arm64-v8a"
        with pytest.raises(FleetError, match=told):
            await survey([bare.serial], None, key)


async def test_the_app_is_installed_once_and_reached_by_its_own_socket(
    phone: phones.PhoneInfo, key: Path, tmp_path: Path
) -> None:
    """The phone's `crowdlearn-device` is a stand-in here; tests/system trains on the real one."""
    path = tmp_path / "app.apk"
    path.write_bytes(apk(PACKAGE))
    async with await AdbDevice.connect(phone.serial, key=key) as device:
        with pytest.raises(FleetError, match="is not installed; install it with adb"):
            await AppDeployment(device).install({})
        with pytest.raises(FleetError, match="does not start: Error: Not found; no service started"):
            await AppDeployment(device).start()
        deployment = AppDeployment(device, apk=path, arguments=["--name", "a b"], start_seconds=1)
        assert await deployment.install({"programs/a.pte": b"a" * 100}) == 100
        assert await AppDeployment(device).install({"b.pte": b"a" * 100}) == 0
        assert await device.pull(f"{APP_HOME}/programs/a.pte") == await device.pull(f"{APP_HOME}/b.pte")
        with pytest.raises(FleetError, match="does not listen after 1 s; open it on the phone"):
            await deployment.start()
        with pytest.raises(FleetError, match="does not listen"):
            await deployment.connect()
        await deployment.stop()
        assert (await device.shell("am start-activity -n org.example/.Main")).exit_code == 255
