"""Client of the phone's file service: stat, push and pull. All raise TimeoutError when it is silent."""

import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from crowdlearn_host.adb.carriers.silence import Watched, opened
from crowdlearn_host.adb.wire.messages import ProtocolError
from crowdlearn_host.adb.wire.stream import Connection
from crowdlearn_host.adb.wire.sync import (
    MAX_CHUNK,
    STAT_V1,
    STAT_V2,
    FileStat,
    Reader,
    data_packets,
    remote_name,
    request,
)
from crowdlearn_host.errors import FleetError

READ_BYTES = 15 * MAX_CHUNK
MAX_MESSAGE = 4096
NO_SUCH_FILE = 2
STORAGE_FULL = "No space left on device"
"""The words that are in a phone's error when there is no room."""
_ANSWER = struct.Struct("<4sI")

Progress = Callable[[int, int], None]


async def stat_file(connection: Connection, remote: str, *, v2: bool) -> FileStat:
    """Return mode, size and time of a file; an errno and zeros when there is none."""
    async with _session(connection) as (stream, reader):
        if v2:
            await stream.write(request(b"STA2", remote_name(remote)))
            _, error, _, _, mode, _, _, _, size, _, mtime, _ = await reader.unpack(STAT_V2)
            return FileStat(mode, size, mtime, error)
        await stream.write(request(b"STAT", remote_name(remote)))
        _, mode, size, mtime = await reader.unpack(STAT_V1)
        return FileStat(mode, size, mtime, 0 if mode else NO_SUCH_FILE)


async def push_file(
    connection: Connection, content: Path | bytes, remote: str, *, mode: int, progress: Progress | None = None
) -> None:
    """Write a file on the phone. Raises FleetError with the phone's own message."""
    total = len(content) if isinstance(content, bytes) else content.stat().st_size
    mtime = 0 if isinstance(content, bytes) else int(content.stat().st_mtime)
    sent = 0
    name = remote_name(remote)
    async with _session(connection) as (stream, reader):
        try:
            await stream.write(request(b"SEND", name + b",%d" % (stat.S_IFREG | mode)))
            for block in _blocks(content):
                for packets in data_packets(memoryview(block), connection.max_payload):
                    await stream.write(packets)
                sent += len(block)
                if progress:
                    progress(sent, total)
            await stream.write(request(b"DONE", mtime))
        except FleetError:
            # A phone that cannot write (disk full, no such folder) says why and hangs up while we still send.
            connection.raise_if_lost()
        answer, length = await reader.unpack(_ANSWER)
        if answer != b"OKAY":
            refusal = await reader.text(length, MAX_MESSAGE)
            if STORAGE_FULL in refusal:
                raise FleetError(
                    f"push of {total} bytes to {remote} failed: the phone's storage is full; make room on it"
                )
            raise FleetError(f"push to {remote} failed on the phone: {refusal}")


async def pull_file(connection: Connection, remote: str) -> AsyncIterator[bytes]:
    """Yield the content of a file of the phone, piece by piece. Raises FleetError with the phone's own
    message.
    """
    async with _session(connection) as (stream, reader):
        await stream.write(request(b"RECV", remote_name(remote)))
        while True:
            name, length = await reader.unpack(_ANSWER)
            if name == b"DONE":
                return
            if name != b"DATA":
                raise FleetError(
                    f"pull of {remote} failed on the phone: {await reader.text(length, MAX_MESSAGE)}"
                )
            if length > MAX_CHUNK:
                raise ProtocolError(f"a DATA packet of {length} bytes; at most {MAX_CHUNK} are allowed")
            yield await reader.exactly(length)


@asynccontextmanager
async def _session(connection: Connection) -> AsyncIterator[tuple[Watched, Reader]]:
    stream = Watched(await opened(connection, "sync:"))
    try:
        yield stream, Reader(stream)
    finally:
        stream.abort()


def _blocks(content: Path | bytes) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while block := file.read(READ_BYTES):
            yield block
