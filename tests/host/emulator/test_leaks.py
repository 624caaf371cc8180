"""A hundred connections that end badly leave nothing behind."""

import asyncio
import os
from pathlib import Path

from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice

from tests.host.conftest import STAND_IN

CYCLES = 100
KILLS = 5
PROGRAM = "crowdlearn-device serve --home /data/local/tmp --port 0"


def descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


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


async def pid_of_program(device: AdbDevice) -> int:
    while not (said := await device.shell("pidof crowdlearn-device")).stdout:
        await asyncio.sleep(0.05)
    return int(said.stdout)


async def test_programs_of_connections_that_are_cut_end(tmp_path: Path, key: Path) -> None:
    with phones.running(1, tmp_path, programs=STAND_IN, preload=()) as (info,):
        for _ in range(KILLS):
            async with await AdbDevice.connect(info.serial, key=key) as device, asyncio.timeout(120):
                work = asyncio.ensure_future(device.shell(PROGRAM))
                pid = await pid_of_program(device)
                assert str(pid) in children(parent(pid))
                zygote = parent(pid)
            await asyncio.gather(work, return_exceptions=True)
            async with asyncio.timeout(120):
                while children(zygote):
                    await asyncio.sleep(0.05)


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
