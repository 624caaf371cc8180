"""Battery, temperature, link and caps of virtual phones."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice, RuntimeDeployment
from crowdlearn_host.emulator.hardware.power import (
    RADIOS,
    Activity,
    PowerState,
    cpu_watts,
    idle_watts,
    spend,
)
from crowdlearn_host.emulator.hardware.profiles import PROFILES, find_profile
from crowdlearn_host.emulator.hardware.radio_link import DelayLine, Direction
from crowdlearn_host.emulator.processes.limits import make_limits, remove_groups
from crowdlearn_host.errors import FleetError
from hypothesis import given
from hypothesis import strategies as st

from tests.host.conftest import STAND_IN

PIXEL = PROFILES["pixel-8"]
activities = st.builds(
    Activity, st.floats(0.01, 3600), st.floats(0, 2), st.integers(0, 10**9), st.integers(0, 10**9)
)


@given(st.lists(activities, max_size=20), st.booleans())
def test_charge_and_temperature_stay_within_what_is_possible(done: list[Activity], plugged: bool) -> None:
    state = PowerState(plugged=plugged)
    for activity in done:
        after = spend(state, PIXEL, activity)
        assert 0 <= after.charge <= 1
        assert after.celsius >= 25
        assert after.used_joules >= state.used_joules
        state = after


def test_an_hour_of_full_load_costs_what_the_model_says() -> None:
    state = spend(PowerState(charge=1.0, plugged=False), PIXEL, Activity(3600, 1.0, 0, 0))
    used = (cpu_watts(PIXEL) + RADIOS["wifi"].watts + idle_watts(PIXEL)) * 3600
    assert state.used_joules == pytest.approx(used)
    assert state.charge == pytest.approx(1 - used / (4.575 * 4.35 * 3600))
    assert state.celsius > 30


def test_slower_phones_have_smaller_shares() -> None:
    assert PIXEL.cpu_share == 1
    assert all(0 < profile.cpu_share <= 1 for profile in PROFILES.values())
    with pytest.raises(FleetError, match="there is no profile 'nokia'; there are: pixel-8"):
        find_profile("nokia")


@given(st.lists(st.integers(1, 10**6), min_size=1), st.floats(0.1, 1000))
def test_a_link_passes_bytes_in_order_at_its_rate(counts: list[int], megabits: float) -> None:
    direction = Direction(megabits, 0.05)
    arrived: list[int] = []
    line = DelayLine(direction, arrived.append)
    passed = [direction.join(line, count, 0.0).end for count in counts]
    assert passed == sorted(passed)
    assert passed[-1] == direction.free_at == pytest.approx(sum(counts) * 8e-6 / megabits)


async def test_a_line_that_is_closed_leaves_the_link_to_the_others() -> None:
    now = asyncio.get_running_loop().time
    direction = Direction(8e-3, 0.0)  # a thousand bytes a second
    arrived: asyncio.Queue[str] = asyncio.Queue()
    lost, other = DelayLine(direction, arrived.put_nowait), DelayLine(direction, arrived.put_nowait)
    before = now()
    lost.put("lost", 1)
    lost.put("lost", 1_000_000)
    other.put("first", 100)
    lost.put("lost", 1_000_000)
    other.put("second", 100)
    assert direction.free_at >= before + 2000
    assert await arrived.get() == "lost"
    lost.close()
    assert [await arrived.get(), await arrived.get()] == ["first", "second"]
    assert 0.2 <= now() - before <= 30
    assert direction.free_at <= now()


async def test_what_a_lost_connection_had_to_send_holds_up_no_new_one(tmp_path: Path, key: Path) -> None:
    link = phones.LinkModel(down=1, up=50, round_trip=0)
    with phones.running(1, tmp_path, link=link) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            for stream in [await device.open("shell:cat") for _ in range(8)]:
                await stream.write(bytes(1 << 20))  # eight seconds each
            connection: Any = device._connection
            while connection._transport.get_write_buffer_size():
                await asyncio.sleep(0)
        async with asyncio.timeout(30), await AdbDevice.connect(info.serial, key=key) as device:
            assert (await device.shell("echo here")).stdout == b"here\n"


async def test_a_delay_line_keeps_the_order() -> None:
    arrived: list[int] = []
    done = asyncio.Event()

    def deliver(item: int) -> None:
        arrived.append(item)
        if item == 99:
            done.set()

    line = DelayLine(Direction(1e6, 0.0), deliver)
    for item in range(100):
        line.put(item, 0)
    await done.wait()
    assert arrived == list(range(100))


async def test_a_slow_link_slows_a_push(tmp_path: Path, key: Path) -> None:
    link = phones.LinkModel(down=80, up=80, round_trip=20)
    with phones.running(1, tmp_path, link=link) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            before = time.monotonic()
            await device.push(bytes(2_000_000), "/data/local/tmp/x")
            # A lower bound: 2 MB take 0.2 s at 80 Mbit/s, whatever else this computer does.
            assert time.monotonic() - before >= 0.2


async def test_a_link_that_fails_is_told_and_comes_back(tmp_path: Path, key: Path) -> None:
    link = phones.LinkModel(down=1000, up=1000, round_trip=0, drop_seconds=0.05)
    with phones.running(1, tmp_path, link=link) as (info,):
        with pytest.raises(FleetError):
            async with await AdbDevice.connect(info.serial, key=key) as device:
                while True:
                    await device.shell("true")
        assert phones.list_phones(tmp_path) == [info]


async def test_an_unplugged_phone_is_away_until_it_is_plugged_in(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            waiting = asyncio.ensure_future(device.shell("sleep 1000"))
            await asyncio.to_thread(phones.unplug, info.name, tmp_path)
            with pytest.raises(FleetError, match="lost"):
                await waiting
        with pytest.raises(FleetError):
            await AdbDevice.connect(info.serial, key=key)
        await asyncio.to_thread(phones.plug, info.name, tmp_path)
        async with await AdbDevice.connect(info.serial, key=key) as device:
            assert (await device.shell("echo back")).stdout == b"back\n"


async def test_a_drained_phone_says_so_and_goes_off_at_zero(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        async with await AdbDevice.connect(info.serial, key=key) as device:
            await RuntimeDeployment(device).start()
            await asyncio.to_thread(phones.drain, info.name, 7, tmp_path)
            assert b"level: 7\n" in (await device.shell("dumpsys battery")).stdout
            assert b"Discharging" in (await device.shell("cat /sys/class/power_supply/battery/status")).stdout
            stream = await device.open("shell:cat")
            await asyncio.to_thread(phones.drain, info.name, 0, tmp_path)
            with pytest.raises(FleetError):
                await stream.read()
        for level in (-1, 101):
            with pytest.raises(FleetError, match="not a battery level"):
                phones.drain(info.name, level, tmp_path)


async def test_a_capped_phone_runs_and_its_groups_are_removed(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=(), limited=True) as (info,):
        assert info.limits in ("cgroup v1", "cgroup v2", "rlimit")
        async with await AdbDevice.connect(info.serial, key=key) as device:
            await RuntimeDeployment(device).start()
            pid = (await device.shell("pidof crowdlearn-device")).stdout.decode().strip()
            for group in info.groups:
                assert pid in (Path(group) / "cgroup.procs").read_text().split()
            assert not info.groups or len(info.groups) in (1, 2)
        phones.kill(info.name, tmp_path)
    assert not any(Path(group).exists() for group in info.groups)


@pytest.mark.parametrize("unified", [True, False])
def test_caps_are_written_where_control_groups_want_them(tmp_path: Path, unified: bool) -> None:
    profile = PROFILES["redmi-7"]
    for folder in ("cpu", "memory"):
        (tmp_path / folder).mkdir()
    if unified:
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    limits = make_limits(profile, "one", root=tmp_path)
    quota = round(100_000 * profile.cpu_share)
    if unified:
        assert limits.kind == "cgroup v2"
        assert (tmp_path / "one/cpu.max").read_text() == f"{quota} 100000"
        assert (tmp_path / "one/memory.max").read_text() == str(1024 << 20)
    else:
        assert limits.kind == "cgroup v1"
        assert (tmp_path / "cpu/one/cpu.cfs_quota_us").read_text() == str(quota)
        assert (tmp_path / "memory/one/memory.limit_in_bytes").read_text() == str(1024 << 20)


def test_without_control_groups_resource_limits_are_used(tmp_path: Path) -> None:
    limits = make_limits(PIXEL, "one", root=tmp_path / "none")
    assert (limits.kind, limits.folders, limits.memory) == ("rlimit", (), 4096 << 20)
    remove_groups(limits.folders)
