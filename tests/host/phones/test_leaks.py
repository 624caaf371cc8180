"""A hundred connections that end badly leave nothing behind."""

import asyncio
import os
from pathlib import Path

from crowdlearn_host import phones
from crowdlearn_host.adb import AdbDevice

from tests.host.conftest import STAND_IN

CYCLES = 100
KILLS = 5


def descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def cut_in_mid_work(serial: str, key: Path) -> None:
    device = await AdbDevice.connect(serial, key=key)
    work = [asyncio.ensure_future(device.shell(command)) for command in ("logcat", "cat", "sleep 1000")]
    stream = await device.open("shell:cat")
    await stream.write(b"x" * 100_000)
    await device.close()
    await asyncio.gather(*work, return_exceptions=True)


async def settled(pid: int, count: int, serial: str, key: Path) -> int:
    """Descriptors of a phone once it has noticed that everyone left; each look is a connection of its own."""
    for _ in range(CYCLES):
        if descriptors(pid) <= count:
            break
        async with await AdbDevice.connect(serial, key=key) as device:
            await device.shell("true")
    return descriptors(pid)


async def test_connections_that_are_cut_leak_nothing(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        await cut_in_mid_work(info.serial, key)
        phone, ours = descriptors(info.pid), descriptors("self")
        for _ in range(CYCLES):
            await cut_in_mid_work(info.serial, key)
        assert await settled(info.pid, phone, info.serial, key) <= phone
        assert descriptors("self") <= ours
        assert children(info.pid) == set()


async def test_phones_that_are_killed_leak_nothing(tmp_path: Path, key: Path) -> None:
    before = children(os.getpid())
    ours = descriptors("self")
    for _ in range(KILLS):
        with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
            await cut_in_mid_work(info.serial, key)
            phones.kill(info.name, tmp_path)
    assert children(os.getpid()) == before
    assert descriptors("self") <= ours
    assert list((tmp_path / "phones").iterdir()) == []
