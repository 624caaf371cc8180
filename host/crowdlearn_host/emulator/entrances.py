"""The entrances by which bytes from outside reach adb and a virtual phone, each by itself.

Each takes any bytes: it accepts them, or refuses them as its protocol does, and does nothing else. An
AssertionError is a hole. `python -m benchmarks.fuzz` feeds them.
"""

from __future__ import annotations

import asyncio
import io
import os
import struct
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

from crowdlearn_host.adb.wire.messages import Command, Decoder, Message, ProtocolError, encode_header
from crowdlearn_host.adb.wire.shell_protocol import Channel, ShellDecoder, encode
from crowdlearn_host.adb.wire.streams import Data, Incoming, Streams
from crowdlearn_host.adb.wire.sync import request
from crowdlearn_host.emulator.commands.apk import ApkError, manifest_package, package_name
from crowdlearn_host.emulator.commands.toybox import COMMANDS
from crowdlearn_host.emulator.daemon.file_service import FileService
from crowdlearn_host.emulator.daemon.handshake import Handshake
from crowdlearn_host.emulator.daemon.keys import KeyStore
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.shell.shell import Io, Shell, run

PAYLOAD = 4096
MAX_STREAMS = 8


def adb_connection(data: bytes) -> None:
    """Take the bytes of a connection: messages, then streams."""
    decoder = Decoder(max_payload=PAYLOAD)
    decoder.verify_checksums = bool(data[:1] > b"\x7f")
    streams = Streams(max_streams=MAX_STREAMS, counts_bytes=bool(data[:1] < b"\x40"))
    streams.open(b"shell:")
    try:
        for message in decoder.feed(data[1:]):
            event, _ = streams.receive(message)
            if isinstance(event, Incoming):
                streams.accept(event.local_id)
            if isinstance(event, Data):
                streams.acknowledge(event.local_id, len(event.payload))
    except ProtocolError:
        return
    finally:
        assert len(streams) <= MAX_STREAMS


def adb_handshake(data: bytes) -> None:
    """Take messages of a computer that wants to connect; without a trusted key it never gets in."""
    with tempfile.TemporaryDirectory() as folder:
        handshake = Handshake(
            KeyStore(Path(folder) / "keys"), "", new_token=lambda: bytes(20), auto_accept=False
        )
        try:
            for message in Decoder().feed(data):
                handshake.receive(message)
        except ProtocolError:
            return
        assert not handshake.online


def adb_shell_packets(data: bytes) -> None:
    """Take packets of the shell service."""
    try:
        list(ShellDecoder().feed(data))
    except ProtocolError:
        return


def adb_files(data: bytes) -> None:
    """Take requests to the file service of a virtual phone; nothing may appear outside its folder."""
    with tempfile.TemporaryDirectory() as folder:
        service = FileService(Filesystem(Path(folder) / "phone"), PAYLOAD)
        with suppress(ProtocolError):
            asyncio.run(service(_Fed(data)))  # type: ignore[arg-type]
        assert os.listdir(folder) == ["phone"]


def phone_shell(data: bytes) -> None:
    """Run a command line of a virtual phone; nothing may appear outside its folder."""
    commands = {name: command for name, command in COMMANDS.items() if name != "sleep"}

    async def body(folder: str) -> None:
        jobs: list[asyncio.Future[int]] = []

        def spawn(work: Awaitable[int]) -> None:
            jobs.append(asyncio.ensure_future(work))

        async def no_input() -> bytes:
            return b""

        async def ignore(_: bytes) -> None:
            return

        shell = Shell(Filesystem(Path(folder) / "phone"), commands, spawn)
        await run(shell, data.decode(errors="replace"), Io(no_input, ignore, ignore))
        await asyncio.gather(*jobs)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(body(folder))
        assert os.listdir(folder) == ["phone"]


def apk(data: bytes) -> None:
    """Read an APK file, and its binary manifest alone."""
    with suppress(ApkError):
        package_name(io.BytesIO(data))
    with suppress(ApkError, struct.error, UnicodeDecodeError):
        manifest_package(data)


class _Fed:
    """A stream that gives its bytes in two pieces and takes whatever is written."""

    service = "sync:"

    def __init__(self, data: bytes) -> None:
        self._pieces = [data[len(data) // 2 :], data[: len(data) // 2]]

    async def read(self) -> bytes:
        while self._pieces:
            if piece := self._pieces.pop():
                return piece
        return b""

    async def write(self, data: bytes) -> None:
        return


def _messages(*messages: Message) -> bytes:
    return b"".join(encode_header(message, with_checksum=True) + message.payload for message in messages)


def _connection_seed() -> bytes:
    return b"\xff" + _messages(
        Message(Command.OPEN, 7, 0, b"sync:\0"),
        Message(Command.WRTE, 7, 2, b"abc"),
        Message(Command.OKAY, 9, 1),
        Message(Command.CLSE, 7, 2),
    )


def _files_seed() -> bytes:
    path = b"/data/local/tmp/x"
    return b"".join(
        [
            request(b"SEND", path + b",33188"),
            request(b"DATA", b"content"),
            request(b"DONE", 1),
            request(b"STA2", path),
            request(b"LIS2", b"/data/local/tmp"),
            request(b"RECV", path),
            request(b"QUIT", b""),
        ]
    )


SHELL_SEEDS = (
    b"cd /data/local/tmp && echo a >f; cat <f | wc -l || ls -lR / 2>&1",
    b"x=$(ls *); (ln -s / l; cp -r l m; rm -rf ../*) & echo \"$x\" '$x' $!",
)

ENTRANCES: Mapping[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "adb_connection": (adb_connection, (_connection_seed(),)),
    "adb_files": (adb_files, (_files_seed(),)),
    "adb_handshake": (
        adb_handshake,
        (
            _messages(
                Message(Command.CNXN, 0x01000001, 1 << 20, b"host::\0"),
                Message(Command.AUTH, 2, 0, bytes(256)),
                Message(Command.AUTH, 3, 0, b"QUFB user@host\0"),
            ),
        ),
    ),
    "adb_shell_packets": (adb_shell_packets, (encode(Channel.STDIN, b"x") + encode(Channel.EXIT, b"\0"),)),
    "apk": (apk, (b"PK\x03\x04", struct.pack("<HHI", 3, 8, 8))),
    "phone_shell": (phone_shell, SHELL_SEEDS),
}
"""Each entrance with bytes that it accepts, by name."""
