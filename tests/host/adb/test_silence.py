"""A phone that stops answering is given up and named; one that is slow is waited for."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice
from crowdlearn_host.adb.carriers import silence
from crowdlearn_host.adb.services.files import pull_file
from crowdlearn_host.adb.wire.sync import request
from crowdlearn_host.errors import FleetError

REMOTE = "/data/local/tmp/content"
CONTENT = os.urandom(8 << 20)
PATIENCE = 120.0


class Sleeper:
    """A phone that its owner's machine can stop, as a phone does whose cable is loose."""

    def __init__(self, device: AdbDevice, pid: int, patch: pytest.MonkeyPatch) -> None:
        self.device, self._pid, self._patch = device, pid, patch

    def stop(self) -> None:
        self._patch.setattr(silence, "SILENCE_SECONDS", 0.2)
        os.kill(self._pid, signal.SIGSTOP)

    def stop_once_moving(self, done: int, total: int) -> None:
        if done < total:
            self.stop()


@pytest.fixture
async def sleeper(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sleeper]:
    with phones.running(1, tmp_path) as (info,):
        try:
            async with await AdbDevice.connect(info.serial, key=key) as device:
                await device.push(CONTENT, REMOTE)
                yield Sleeper(device, info.pid, monkeypatch)
        finally:
            os.kill(info.pid, signal.SIGCONT)


def told(sleeper: Sleeper, work: str) -> str:
    return f"{sleeper.device.serial} stopped answering: .* during {work}.*; wake the phone"


async def test_a_push_to_a_phone_that_falls_silent_is_given_up(sleeper: Sleeper, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(CONTENT)
    with pytest.raises(FleetError, match=told(sleeper, f"the push of {REMOTE}")):
        async with asyncio.timeout(PATIENCE):
            await sleeper.device.push(tmp_path / "content", REMOTE, progress=sleeper.stop_once_moving)


async def test_a_pull_from_a_phone_that_falls_silent_is_given_up(sleeper: Sleeper, tmp_path: Path) -> None:
    (tmp_path / "back").write_bytes(b"before")
    with pytest.raises(FleetError, match=told(sleeper, f"the pull of {REMOTE}")):
        async with asyncio.timeout(PATIENCE):
            await sleeper.device.pull_to(REMOTE, tmp_path / "back", progress=sleeper.stop_once_moving)
    assert {path.name for path in tmp_path.iterdir()} - {"phones"} == {"back"}
    assert (tmp_path / "back").read_bytes() == b"before"


async def test_whatever_a_silent_phone_is_asked_is_given_up(sleeper: Sleeper) -> None:
    sleeper.stop()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(FleetError, match=told(sleeper, f"a look at {REMOTE}")):
            await sleeper.device.pull(REMOTE)
        with pytest.raises(FleetError, match=told(sleeper, "the opening of 'tcp:1'")):
            await sleeper.device.open("tcp:1")


class SlowStream:
    """A file of twelve bytes, each of which comes after a pause; nothing else is asked of it."""

    service = "sync:"

    def __init__(self) -> None:
        self._packets = [*(request(b"DATA", b"x") for _ in range(12)), request(b"DONE", 0)]

    async def read(self) -> bytes:
        await asyncio.sleep(0.25)
        return self._packets.pop(0)

    async def write(self, data: bytes | bytearray | memoryview) -> None: ...

    async def drain(self) -> None: ...

    async def close(self) -> None: ...

    def abort(self) -> None: ...


class SlowConnection:
    """A connection whose only service is such a file."""

    max_payload = 4096
    lost = None

    async def open(self, service: str, window: int = 0) -> SlowStream:
        return SlowStream()

    def raise_if_lost(self) -> None: ...

    async def close(self) -> None: ...


async def test_a_slow_transfer_may_take_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "SILENCE_SECONDS", 2.0)
    assert b"".join([piece async for piece in pull_file(SlowConnection(), REMOTE)]) == b"x" * 12
