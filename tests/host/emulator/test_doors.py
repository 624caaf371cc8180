"""What a visitor of a virtual phone gets of the computer that runs it: nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from crowdlearn_device.platform.confinement import landlock_version
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.wire.sync import request
from crowdlearn_host.emulator.daemon.file_service import FileService
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.settings import FILES

SNOOP = {"snoop": "tests.host.emulator.snoop:main"}
TEMPORARY = "data/local/tmp"
DENIED = ("Permission denied", "No such file or directory")


class Interleaved:
    """A stream of requests, between which something is done."""

    service = "sync:"

    def __init__(self, *steps: bytes | Callable[[], None]) -> None:
        self._steps = list(steps)
        self.answers = b""

    async def read(self) -> bytes:
        while self._steps:
            step = self._steps.pop(0)
            if isinstance(step, bytes):
                return step
            step()
        return b""

    async def write(self, data: bytes) -> None:
        self.answers += data


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "developers"
    path.write_text("secret")
    path.chmod(0o400)
    os.utime(path, (7, 7))
    return path


def test_a_target_that_becomes_a_link_before_the_end_leads_nowhere(tmp_path: Path, secret: Path) -> None:
    root = tmp_path / "phone"

    def exchange() -> None:
        (root / TEMPORARY / "x").unlink()
        (root / TEMPORARY / "x").symlink_to(secret)

    sending = request(b"SEND", b"/data/local/tmp/x,33279"), request(b"DATA", b"content")
    stream = Interleaved(*sending, exchange, request(b"DONE", 1))
    asyncio.run(FileService(Filesystem(root), 4096)(stream))  # type: ignore[arg-type]
    assert (secret.stat().st_mode & 0o777, secret.stat().st_mtime) == (0o400, 7)
    assert secret.read_text() == "secret"


@pytest.mark.parametrize("through", ["link", "folder/developers"])
def test_nothing_is_written_changed_or_removed_through_links(
    tmp_path: Path, secret: Path, through: str
) -> None:
    files = Filesystem(tmp_path / "phone")
    inside = tmp_path / "phone" / TEMPORARY
    (inside / "link").symlink_to(secret)
    (inside / "folder").symlink_to(tmp_path)
    path = f"/{TEMPORARY}/{through}"
    attempts: list[Callable[[], object]] = [
        lambda: files.open(path, "wb"),
        lambda: files.open(path, "ab"),
        lambda: files.open(path, "rb"),
        lambda: files.change_mode(path, "/", lambda mode: 0o777),
        lambda: files.touch(path),
        lambda: files.hard_link(path, f"/{TEMPORARY}/second"),
        lambda: files.copy(path, f"/{TEMPORARY}/copy"),
        lambda: files.make_folder(f"/{TEMPORARY}/folder/made"),
        lambda: files.remove(f"/{TEMPORARY}/folder/developers", recursive=True),
    ]
    for attempt in attempts:
        with pytest.raises(OSError):
            attempt()
    assert (secret.stat().st_mode & 0o777, secret.stat().st_mtime) == (0o400, 7)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["developers", "phone"]


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
async def test_programs_stay_on_their_phone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    with phones.running(2, tmp_path, programs=SNOOP, preload=()) as (info, other):
        inside = tmp_path / "phones" / info.name / FILES / TEMPORARY
        (inside / "link").symlink_to(outside / "secret")
        (inside / "folder").symlink_to(outside)
        (tmp_path / "phones" / other.name / FILES / TEMPORARY / "own").write_text("of the other phone")
        assert info.confined.startswith("landlock")
        async with await AdbDevice.connect(info.serial) as device:

            async def snoop(words: str) -> str:
                result = await device.shell(f"cd /{TEMPORARY}; snoop {words}")
                return result.stdout.decode().strip()

            assert await snoop("write own") == ""
            assert await snoop("read own") == "mine"
            up = "../" * 12
            for path in ("link", "folder/secret", f"{up}{outside}/secret", "folder/../secret"):
                assert await snoop(f"read {path}") in DENIED, path
                assert await snoop(f"write {path}") in DENIED, path
            assert (
                await snoop(f"read ../../../../../{other.name}/{FILES}/{TEMPORARY}/own")
                != "of the other phone"
            )
            assert await snoop("read /etc/passwd") in DENIED
    assert (outside / "secret").read_text() == "secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]
