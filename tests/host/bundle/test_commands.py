"""Programs in the files of a virtual phone of a processor, and the commands that bring them there."""

import io
import platform
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="programs of this test are for x86-64")
PLACE = "/data/local/tmp"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.PhoneInfo]:
    with phones.running(1, tmp_path_factory.mktemp("home"), machine="x86_64") as (info,):
        yield info


@pytest.fixture
async def device(bare: phones.PhoneInfo, key: Path) -> AsyncIterator[AdbDevice]:
    async with await AdbDevice.connect(bare.serial, key=key) as connected:
        yield connected


async def test_a_program_file_runs_with_output_exit_code_and_process(device: AdbDevice) -> None:
    await device.push(Path("/bin/cat"), f"{PLACE}/cat", mode=0o755)
    await device.push(b"hello", f"{PLACE}/text")
    assert (await device.shell(f"{PLACE}/cat {PLACE}/text")).stdout == b"hello"
    result = await device.shell(f"cd {PLACE} && ./cat nowhere")
    assert (result.exit_code, b"No such file" in result.stderr) == (1, True)


async def test_what_cannot_be_run_is_told_as_a_shell_tells_it(device: AdbDevice) -> None:
    await device.push(Path("/bin/cat"), f"{PLACE}/data", mode=0o644)
    await device.push(b"text", f"{PLACE}/script", mode=0o755)
    foreign = bytearray(Path("/bin/cat").read_bytes())
    foreign[18:20] = (183).to_bytes(2, "little")
    await device.push(bytes(foreign), f"{PLACE}/foreign", mode=0o755)
    for name, code, said in (
        ("absent", 127, b"not found"),
        ("data", 126, b"Permission denied"),
        ("script", 126, b"not ELF file"),
        ("foreign", 126, b"another machine"),
    ):
        result = await device.shell(f"{PLACE}/{name}")
        assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


async def test_the_phone_says_its_processor_and_page_size(device: AdbDevice) -> None:
    assert (await device.shell("getprop ro.product.cpu.abilist")).stdout == b"x86_64\n"
    assert int((await device.shell("getconf PAGE_SIZE")).stdout) >= 4096
    assert (await device.shell("which crowdlearn-device")).exit_code == 1


async def test_archives_are_unpacked_inside_the_phone_only(device: AdbDevice) -> None:
    for name, whole in (("a/b.txt", True), ("../../../../out", False), ("/etc/out", True)):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w:gz") as tar:
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"hi"))
        await device.push(content.getvalue(), f"{PLACE}/x.tar.gz")
        result = await device.shell(f"mkdir -p {PLACE}/x && tar -xzf {PLACE}/x.tar.gz -C {PLACE}/x")
        assert (result.exit_code == 0) == whole, name
    assert (await device.shell(f"cat {PLACE}/x/a/b.txt {PLACE}/x/etc/out")).stdout == b"hihi"
    assert not Path("/etc/out").exists()


async def test_hashes_are_checked_by_a_listing(device: AdbDevice) -> None:
    await device.push(b"one", f"{PLACE}/one")
    await device.shell(f"cd {PLACE} && sha256sum one >listing")
    assert (await device.shell(f"cd {PLACE} && sha256sum -c listing")).stdout == b"one: OK\n"
    await device.push(b"two", f"{PLACE}/one")
    result = await device.shell(f"cd {PLACE} && sha256sum -c listing")
    assert (result.stdout, result.exit_code) == (b"one: FAILED\n", 1)


def test_a_processor_without_an_emulator_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(Exception, match="apt-get install qemu-user-static"):
        phones.up(1, home=tmp_path, machine="arm64")
    assert not list((tmp_path / "phones").iterdir()) if (tmp_path / "phones").exists() else True
