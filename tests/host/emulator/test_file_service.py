"""The file service against requests that no client makes."""

import asyncio
from pathlib import Path

import pytest
from crowdlearn_host.adb.wire.sync import request
from crowdlearn_host.emulator.daemon.file_service import FileService
from crowdlearn_host.emulator.hardware.filesystem import Filesystem


class Recorded:
    """A stream that holds requests and keeps the answers."""

    service = "sync:"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.answers = b""

    async def read(self) -> bytes:
        data, self._data = self._data, b""
        return data

    async def write(self, data: bytes) -> None:
        self.answers += data


@pytest.mark.parametrize(
    "asked",
    [
        request(b"RECV", b"/local\x01\x00"),
        request(b"RECV", b"/data/local/tmp"),
        request(b"SEND", b"/data/local/tmp/a\0b,33188") + request(b"DONE", 0),
        request(b"SEND", b"/etc/passwd,33188") + request(b"DATA", b"x" * 100) + request(b"DONE", 0),
        request(b"NONE", b"x"),
    ],
)
def test_what_cannot_be_served_is_answered_with_a_failure(tmp_path: Path, asked: bytes) -> None:
    stream = Recorded(asked)
    service = FileService(Filesystem(tmp_path / "phone"), 4096)
    asyncio.run(service(stream))  # type: ignore[arg-type]
    assert stream.answers.startswith(b"FAIL")
    assert [path.name for path in tmp_path.iterdir()] == ["phone"]
