"""A small bundle brought to a virtual phone that runs programs of this computer's processor."""

import gzip
import platform
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.deployment.bundle import install_bundle
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.bundle.bundle import pack
from crowdlearn_host.bundle.tree import LOADER
from crowdlearn_host.errors import FleetError

HOME = "/data/local/tmp/crowdlearn"
LOADERS = [*Path("/lib64").glob("ld-linux-*.so.*"), *Path("/lib").glob("ld-linux-*.so.*")]
pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not LOADERS, reason="this computer has no loader of glibc for x86-64"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A loader that works, and files of a few bytes."""
    folder = tmp_path_factory.mktemp("bundle")
    python = pack({LOADER: LOADERS[0].read_bytes(), "lib/python3.13/os.py": b"# os\n"}, folder, "python")
    return Bundle("x86_64", python, pack({"__main__.py": b"print(1)\n"}, folder, "device"), "3.13")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    with phones.running(1, tmp_path_factory.mktemp("home"), machine="x86_64") as (info,):
        yield info


@pytest.fixture
async def device(bare: phones.PhoneInfo, key: Path) -> AsyncIterator[AdbDevice]:
    async with await AdbDevice.connect(bare.serial, key=key) as connected:
        yield connected
        await connected.shell(f"rm -rf {HOME}")


async def test_it_is_sent_once(device: AdbDevice, small: Bundle) -> None:
    first = await install_bundle(device, small, HOME)
    assert first.sent == small.python.packed + small.device.packed
    assert (await install_bundle(device, small, HOME)).sent == 0
    assert first.command == tuple(small.command(f"{HOME}/bundles"))
    assert b"ld.so" in (await device.shell(f"{first.command[0]} --version")).stdout


async def test_only_what_changed_is_sent_and_what_it_replaces_removed(
    device: AdbDevice, small: Bundle, tmp_path: Path
) -> None:
    await install_bundle(device, small, HOME)
    newer = replace(small, device=pack({"__main__.py": b"print(2)\n"}, tmp_path, "device"))
    assert (await install_bundle(device, newer, HOME)).sent == newer.device.packed
    names = (await device.shell(f"ls {HOME}/bundles")).stdout.decode().split()
    assert sorted(names) == sorted([newer.python.digest, newer.device.digest])


@pytest.mark.parametrize(
    "damage", ["echo x >>lib/python3.13/os.py", "rm lib/python3.13/os.py", "rm files.sha256"]
)
async def test_a_damaged_bundle_is_brought_again(device: AdbDevice, small: Bundle, damage: str) -> None:
    await install_bundle(device, small, HOME)
    (await device.shell(f"cd {HOME}/bundles/{small.python.digest} && {damage}")).check("damaging")
    assert (await install_bundle(device, small, HOME)).sent == small.python.packed
    assert (await install_bundle(device, small, HOME)).sent == 0


async def test_an_archive_that_arrives_damaged_leaves_nothing(
    device: AdbDevice, small: Bundle, tmp_path: Path
) -> None:
    other = pack({"lib/python3.13/os.py": b"# another\n"}, tmp_path, "python")
    with pytest.raises(FleetError, match="is damaged on the phone"):
        await install_bundle(device, replace(small, python=replace(other, digest=small.python.digest)), HOME)
    other.path.write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(FleetError, match="unpacking"):
        await install_bundle(device, replace(small, python=other), HOME)
    assert (await device.shell(f"ls {HOME}")).exit_code == 1


async def test_a_phone_with_too_little_room_is_told(device: AdbDevice, small: Bundle) -> None:
    huge = replace(small, python=replace(small.python, unpacked=10**15))
    with pytest.raises(FleetError, match=r"MB are free, and the device runtime needs .* make room"):
        await install_bundle(device, huge, HOME)
    assert (await device.shell(f"ls {HOME}")).exit_code == 1


async def test_a_phone_whose_shell_may_not_run_programs_is_told(
    device: AdbDevice, small: Bundle, tmp_path: Path
) -> None:
    python = pack({LOADER: b"#!/bin/sh\n"}, tmp_path, "python")
    with pytest.raises(FleetError, match=r"its shell may not run programs .*not executable.* use the app"):
        await install_bundle(device, replace(small, python=python), HOME)
    assert (await device.shell(f"ls {HOME}")).exit_code == 1
