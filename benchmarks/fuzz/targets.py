"""What is fuzzed: each target accepts bytes or refuses them with a typed error, and must do nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import struct
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crowdlearn_device.errors import DeviceError
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import ArraySpec, LayerSpec, Manifest, MethodSpec, Port
from crowdlearn_device.program.manifest_reader import read_manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import decode_frame, decode_tensor, encode_frame, encode_tensor
from crowdlearn_device.sharing.update import Limits, Update, decode_update, encode_update
from crowdlearn_device.state.piece_state import PieceState
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
from crowdlearn_host.errors import HostError

from benchmarks.fuzz.opened import SEEDS, opened

PAYLOAD = 4096
MAX_STREAMS = 8


@dataclass(frozen=True)
class Target:
    """`run` is fed with bytes; `seeds` are valid inputs to start from."""

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def adb_connection(data: bytes) -> None:
    """Bytes of a connection: messages, then streams."""
    decoder = Decoder(max_payload=PAYLOAD)
    decoder.verify_checksums = bool(data[:1] > b"\x7f")
    streams = Streams(max_streams=MAX_STREAMS)
    streams.open(b"shell:")
    try:
        for message in decoder.feed(data[1:]):
            events, _ = streams.receive(message)
            for event in events:
                if isinstance(event, Incoming):
                    streams.accept(event.local_id)
                if isinstance(event, Data):
                    streams.acknowledge(event.local_id)
    except ProtocolError:
        return
    finally:
        assert len(streams) <= MAX_STREAMS


def adb_handshake(data: bytes) -> None:
    """Messages of a computer that wants to connect; without a trusted key it never gets in."""
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
    """Packets of the shell service."""
    try:
        list(ShellDecoder().feed(data))
    except ProtocolError:
        return


def adb_files(data: bytes) -> None:
    """Requests to the file service of a virtual phone; nothing may appear outside its folder."""
    with tempfile.TemporaryDirectory() as folder:
        service = FileService(Filesystem(Path(folder) / "phone"), PAYLOAD)
        with suppress(ProtocolError):
            asyncio.run(service(_Fed(data)))  # type: ignore[arg-type]
        assert os.listdir(folder) == ["phone"]


def phone_shell(data: bytes) -> None:
    """A command line of a virtual phone; nothing may appear outside its folder."""
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
    """An APK file, and the binary manifest alone."""
    with suppress(ApkError):
        package_name(io.BytesIO(data))
    with suppress(ApkError, struct.error, UnicodeDecodeError):
        manifest_package(data)


def frame(data: bytes) -> None:
    """A protobuf frame and every tensor in it."""
    try:
        for tensor in _tensors(decode_frame(data)):
            decode_tensor(tensor)
    except DeviceError:
        return


def tensor(data: bytes) -> None:
    """One tensor message."""
    message = pb.Tensor()
    try:
        message.ParseFromString(data)
    except Exception as error:
        if type(error).__name__ != "DecodeError":
            raise
        return
    try:
        decode_tensor(message)
    except DeviceError:
        return


def update(data: bytes) -> None:
    """A message with shared weights."""
    try:
        decode_update(data, Limits(model_weights=10_000, max_weights=1000))
    except (DeviceError, HostError):
        return


def manifest(data: bytes) -> None:
    """A program's manifest."""
    try:
        read_manifest(data)
    except DeviceError:
        return


def state(data: bytes) -> None:
    """Stored state of a piece, as it is and with the hash that belongs to it."""
    for content in (data, data + hashlib.sha256(data).digest()):
        try:
            stored = PieceState.from_bytes(content)
        except DeviceError:
            continue
        for layer, (start, stop) in enumerate(stored.neurons):
            with suppress(DeviceError):
                list(stored.parts(layer, (start, min(stop, start + 8))))


def program(data: bytes) -> None:
    """Bytes of a .pte that a device is told to load and run."""
    try:
        executor = ExecuTorchExecutor(data)
        executor.run("forward", [np.ones((2, 3), np.float32)])
    except DeviceError:
        return


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


def _tensors(message: Any) -> list[pb.Tensor]:
    found = []
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if not hasattr(value, "ListFields") else [value]:
            if isinstance(child, pb.Tensor):
                found.append(child)
            elif hasattr(child, "ListFields"):
                found += _tensors(child)
    return found


def _messages(*messages: Message) -> bytes:
    return b"".join(encode_header(message, with_checksum=True) + message.payload for message in messages)


def _update_seed() -> bytes:
    indices = np.array([1, 5, 6, 900])
    return encode_update(Update(0, 0, indices, np.ones(4, np.float32)))


def _manifest_seed() -> bytes:
    return (
        Manifest(
            program="0" * 64,
            max_batch=4,
            momentum=0.9,
            weight_decay=0.0,
            layers=(LayerSpec(4, 2, (2,)), LayerSpec(3, 1, (1,))),
            edges=(),
            arrays=(ArraySpec("w", 0, (3,), trained=True),),
            methods=(MethodSpec("forward_0", (Port("sum", ("B", 2), layer=0),), ()),),
        )
        .to_json()
        .encode()
    )


def _frame_seeds() -> tuple[bytes, ...]:
    hello = pb.Frame(hello=pb.Hello(version=1, device="d"))
    share = pb.Frame(share=pb.Share())
    envelope = pb.Frame(envelope=pb.Envelope())
    return tuple(map(encode_frame, (hello, share, envelope)))


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


STATE = PieceState(((0, 1),), {0: {"w": np.ones((1, 2), np.float32)}})
SHELL_SEEDS = (
    b"cd /data/local/tmp && echo a >f; cat <f | wc -l || ls -lR / 2>&1",
    b"x=$(ls *); (ln -s / l; cp -r l m; rm -rf ../*) & echo \"$x\" '$x' $!",
)

TARGETS = {
    "adb_connection": Target(adb_connection, (_connection_seed(),)),
    "adb_files": Target(adb_files, (_files_seed(),)),
    "adb_handshake": Target(
        adb_handshake,
        (
            _messages(
                Message(Command.CNXN, 0x01000001, 1 << 20, b"host::\0"),
                Message(Command.AUTH, 2, 0, bytes(256)),
                Message(Command.AUTH, 3, 0, b"QUFB user@host\0"),
            ),
        ),
    ),
    "adb_shell_packets": Target(
        adb_shell_packets, (encode(Channel.STDIN, b"x") + encode(Channel.EXIT, b"\0"),)
    ),
    "apk": Target(apk, (b"PK\x03\x04", struct.pack("<HHI", 3, 8, 8))),
    "frame": Target(frame, _frame_seeds()),
    "manifest": Target(manifest, (_manifest_seed(),)),
    "opened": Target(opened, SEEDS),
    "phone_shell": Target(phone_shell, SHELL_SEEDS),
    "program": Target(program, (b"\x1c\0\0\0ET12",)),
    "state": Target(state, (STATE.to_bytes(), STATE.to_bytes()[:-32])),
    "tensor": Target(tensor, (encode_tensor(np.ones((2, 3), np.float32)).SerializeToString(),)),
    "update": Target(update, (_update_seed(),)),
}
