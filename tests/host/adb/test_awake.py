"""A phone stays awake while a run is connected to it, and is then as it was, whatever ended the run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.awake import SETTING, awake
from crowdlearn_host.adb.deployment.shell import HOME

LISTING = "cmd power set-wakelock list"
NOTE = f"{HOME}/awake"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    """A phone of Android 9, whose shell has no wake locks to lend."""
    with phones.running(1, tmp_path_factory.mktemp("home"), profile="redmi-7") as (info,):
        yield info


@pytest.fixture
async def older(old: phones.PhoneInfo, key: Path) -> AsyncIterator[AdbDevice]:
    async with await AdbDevice.connect(old.serial, key=key) as connected:
        yield connected


async def said(device: AdbDevice, command: str) -> str:
    return (await device.shell(command)).check(command).decode().strip()


async def until(device: AdbDevice, command: str, wanted: str) -> None:
    async with asyncio.timeout(20):
        while await said(device, command) != wanted:
            await asyncio.sleep(0.02)


async def test_a_wake_lock_is_held_and_given_back(device: AdbDevice) -> None:
    async with awake(device) as means:
        assert means == "wake lock"
        assert "PARTIAL_WAKE_LOCK: refCount=1" in await said(device, LISTING)
    assert await said(device, LISTING) == "Wakelocks:"
    assert (await device.shell(f"ls {NOTE}")).exit_code == 1


@pytest.mark.parametrize("before", ["null", "0", "2"])
async def test_an_older_phone_leaves_its_screen_on_and_gets_its_setting_back(
    older: AdbDevice, before: str
) -> None:
    change = f"settings delete {SETTING}" if before == "null" else f"settings put {SETTING} {before}"
    await said(older, change)
    async with awake(older) as means:
        assert means == "screen"
        assert await said(older, f"settings get {SETTING}") == "7"
    assert await said(older, f"settings get {SETTING}") == before
    assert (await older.shell(f"ls {NOTE}")).exit_code == 1


async def test_a_host_that_is_gone_leaves_no_phone_awake(
    device: AdbDevice, older: AdbDevice, key: Path
) -> None:
    await said(older, f"settings put {SETTING} 1")
    for phone in (device, older):
        host = await AdbDevice.connect(phone.serial, key=key)
        async with awake(host):
            await host.close()
    await until(device, LISTING, "Wakelocks:")
    await until(older, f"settings get {SETTING}", "1")


async def test_a_phone_that_ends_the_command_at_once_gets_everything_back_from_the_host(
    device: AdbDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crowdlearn_host.adb.deployment.awake.RETURN_SECONDS", 0.2)
    monkeypatch.setattr("crowdlearn_host.adb.deployment.awake._Keeper.give_back", "false")
    async with awake(device):
        monkeypatch.undo()
        monkeypatch.setattr("crowdlearn_host.adb.deployment.awake.RETURN_SECONDS", 0.2)
        assert "PARTIAL_WAKE_LOCK: refCount=1" in await said(device, LISTING)
    assert await said(device, LISTING) == "Wakelocks:"
    assert (await device.shell(f"ls {NOTE}")).exit_code == 1


async def test_a_phone_that_was_switched_off_meanwhile_still_knows_what_its_owner_had_set(
    older: AdbDevice,
) -> None:
    await said(older, f"mkdir -p {NOTE}; echo 0 >{NOTE}/before; settings put {SETTING} 7")
    async with awake(older) as means:
        assert means == "screen"
    assert await said(older, f"settings get {SETTING}") == "0"


async def test_a_connection_that_ends_late_leaves_the_next_one_its_setting(
    older: AdbDevice, key: Path
) -> None:
    await said(older, f"settings put {SETTING} 0")
    async with await AdbDevice.connect(older.serial, key=key) as first:
        async with awake(first), awake(older):
            await first.close()
            assert await said(older, f"settings get {SETTING}") == "7"
        await until(older, f"settings get {SETTING}", "0")


async def test_a_shell_that_may_do_nothing_of_it_leaves_the_phone_as_it_is(older: AdbDevice) -> None:
    await said(older, f"rm -rf {NOTE}; mkdir -p {HOME}; echo a file >{NOTE}; settings put {SETTING} 0")
    try:
        async with awake(older) as means:
            assert means == "none"
    finally:
        await said(older, f"rm {NOTE}")
    assert await said(older, f"settings get {SETTING}") == "0"


async def test_svc_changes_the_same_setting(older: AdbDevice) -> None:
    await said(older, "svc power stayon usb")
    assert await said(older, f"settings get {SETTING}") == "2"
    await said(older, "svc power stayon false")
    assert await said(older, f"settings get {SETTING}") == "0"
    assert (await older.shell(LISTING)).exit_code == 255
    assert (await older.shell("settings get secure android_id")).exit_code == 255
