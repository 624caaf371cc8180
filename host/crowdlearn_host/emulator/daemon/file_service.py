"""The phone's file service (`sync:`): stat, list, send and receive over its sandboxed file system."""

import os
import posixpath
import stat
from io import BytesIO
from typing import BinaryIO

from crowdlearn_host.adb.carriers.mux import Stream
from crowdlearn_host.adb.wire.messages import ProtocolError
from crowdlearn_host.adb.wire.sync import (
    DENT_V1,
    DENT_V2,
    MAX_CHUNK,
    MAX_PATH,
    REQUEST,
    STAT_V1,
    STAT_V2,
    Reader,
    data_packets,
    request,
)
from crowdlearn_host.emulator.hardware.filesystem import Filesystem, write_all

READ_BYTES = 15 * MAX_CHUNK


class FileService:
    """The service of `sync:` streams, one after the other, on a file system."""

    def __init__(self, files: Filesystem, max_payload: int) -> None:
        self._files = files
        self._max_payload = max_payload

    async def __call__(self, stream: Stream) -> None:
        """Answer requests until QUIT or the end of the stream."""
        reader = Reader(stream)
        while True:
            try:
                name, length = await reader.unpack(REQUEST)
            except ProtocolError:
                return
            if name == b"QUIT":
                return
            if length > MAX_PATH:
                await stream.write(request(b"FAIL", b"path too long"))
                return
            path = await reader.text(length, MAX_PATH)
            match name:
                case b"STAT" | b"LST2" | b"STA2":
                    await stream.write(self._stat(name, path))
                case b"LIST" | b"LIS2":
                    await self._list(stream, name, path)
                case b"SEND":
                    await self._receive(stream, reader, path)
                case b"RECV":
                    await self._send(stream, path)
                case _:
                    await stream.write(request(b"FAIL", f"unknown request {name!r}".encode()))
                    return

    def _stat(self, name: bytes, path: str) -> bytes:
        try:
            status = self._files.stat(path, follow=name != b"LST2" and name != b"STAT")
        except OSError as error:
            if name == b"STAT":
                return STAT_V1.pack(name, 0, 0, 0)
            return STAT_V2.pack(name, error.errno or 1, *[0] * 10)
        if name == b"STAT":
            return STAT_V1.pack(name, status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime))
        return STAT_V2.pack(name, 0, *_fields(status))

    async def _list(self, stream: Stream, name: bytes, path: str) -> None:
        v2 = name == b"LIS2"
        try:
            names = self._files.names(path)
        except OSError:
            names = []
        entries = bytearray()
        for entry in names:
            encoded = entry.encode(errors="surrogateescape")
            try:
                status = self._files.stat(posixpath.join(path, entry), follow=False)
            except OSError:
                continue
            if v2:
                entries += DENT_V2.pack(b"DNT2", 0, *_fields(status), len(encoded)) + encoded
            else:
                fields = status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime), len(encoded)
                entries += DENT_V1.pack(b"DENT", *fields) + encoded
        done = DENT_V2.pack(b"DONE", *[0] * 12) if v2 else DENT_V1.pack(b"DONE", 0, 0, 0, 0)
        await stream.write(entries + done)

    async def _receive(self, stream: Stream, reader: Reader, request_path: str) -> None:
        path, _, mode_text = request_path.rpartition(",")
        mode = int(mode_text) if mode_text.isdigit() else stat.S_IFREG | 0o644
        error = None
        link = bytearray()
        is_link = stat.S_ISLNK(mode)
        file: BinaryIO = open(os.devnull, "wb", buffering=0)  # noqa: SIM115
        try:
            self._files.make_folder(posixpath.dirname(path) or "/", parents=True)
            if not is_link:
                null, file = file, self._files.open(path, "wb")
                null.close()
        except OSError as failure:
            error = failure
        with file:
            while True:
                name, length = await reader.unpack(REQUEST)
                if name == b"DONE":
                    if error is None and not is_link:
                        # By the open file: at its path may be a link by now.
                        os.fchmod(file.fileno(), mode & 0o777 | 0o600)
                        os.utime(file.fileno(), (length, length))
                    break
                if name != b"DATA" or length > MAX_CHUNK:
                    raise ProtocolError(f"sync packet {name!r} of {length} bytes within a file")
                chunk = await reader.exactly(length)
                if is_link and len(link) < MAX_PATH:
                    link += chunk
                try:
                    if error is None:
                        write_all(file, chunk)
                except OSError as failure:
                    error = failure
        if is_link and error is None:
            try:
                self._files.link(os.fsdecode(bytes(link).rstrip(b"\0")), path, replace=True)
            except OSError as failure:
                error = failure
        if error is None:
            await stream.write(request(b"OKAY", 0))
        else:
            text = f"couldn't create file: {error.strerror or error}"
            await stream.write(request(b"FAIL", text.encode(errors="surrogateescape")))

    async def _send(self, stream: Stream, path: str) -> None:
        try:
            content = self._files.generate(path)
            file = BytesIO(content) if content is not None else self._files.open(path, "rb")
        except OSError as error:
            await stream.write(request(b"FAIL", (error.strerror or str(error)).encode()))
            return
        with file:
            while block := file.read(READ_BYTES):
                for packets in data_packets(memoryview(block), self._max_payload):
                    await stream.write(packets)
        await stream.write(request(b"DONE", 0))


def _fields(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_size,
        int(status.st_atime),
        int(status.st_mtime),
        int(status.st_ctime),
    )
