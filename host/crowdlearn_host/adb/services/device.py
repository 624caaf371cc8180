"""A phone over adb: run commands, move files, reach its ports."""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from crowdlearn_device.platform.files import replacing

from crowdlearn_host.adb.carriers.connection import ACCEPT_SECONDS, CONNECT_SECONDS, connect_tcp, connect_usb
from crowdlearn_host.adb.carriers.mux import Pump, Stream, StreamRefused
from crowdlearn_host.adb.carriers.server import ServerConnection, server_port
from crowdlearn_host.adb.carriers.silence import opened, silence_reported
from crowdlearn_host.adb.carriers.stream_transport import StreamTransport
from crowdlearn_host.adb.services.files import STORAGE_FULL, Progress, pull_file, push_file, stat_file
from crowdlearn_host.adb.wire.shell_protocol import Channel, ShellDecoder, encode
from crowdlearn_host.adb.wire.stream import ByteStream, Connection
from crowdlearn_host.adb.wire.streams import WINDOW_BYTES
from crowdlearn_host.adb.wire.sync import FileStat
from crowdlearn_host.errors import FleetError

SHELL_SECONDS = 60.0
MAX_OUTPUT = 1 << 26
COMMAND_SHOWN = 60
"""Characters of a command that an error shows."""
STDIN_BYTES = 1 << 16
SOCKET_WINDOW = 64 << 10
"""The bytes of a runtime that are on their way: what is behind them can still be overtaken."""
INSTALL_SECONDS = 300.0
APK_BYTES = 1 << 18


@dataclass(frozen=True)
class ShellResult:
    """The output of a command on the phone, and its exit code."""

    stdout: bytes
    stderr: bytes
    exit_code: int

    def check(self, what: str) -> bytes:
        """Return the standard output of a command that has to succeed. Raises FleetError."""
        if STORAGE_FULL.encode() in self.stderr + self.stdout[-len(STORAGE_FULL) - 200 :]:
            raise FleetError(f"{what} failed: the phone's storage is full; make room on it and start again")
        if self.exit_code:
            output = (self.stderr or self.stdout).decode(errors="replace").strip()
            raise FleetError(f"{what} failed on the phone with exit code {self.exit_code}: {output}")
        return self.stdout


class AdbDevice:
    """One connected phone; any number of calls may run at the same time."""

    def __init__(self, serial: str, connection: Connection, features: frozenset[str]) -> None:
        self.serial = serial
        self.features = features
        self._connection = connection
        self._pumps: dict[socket.socket, Pump] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(
        cls,
        serial: str,
        *,
        key: Path | None = None,
        timeout: float = CONNECT_SECONDS,
        accept_timeout: float = ACCEPT_SECONDS,
    ) -> Self:
        """Connect to HOST:PORT with the private key at `key` (default ~/.android/adbkey, made when missing).

        Raises FleetError that says what to do.
        """
        mux, banner = await connect_tcp(serial, key=key, timeout=timeout, accept_timeout=accept_timeout)
        return cls(serial, mux, banner.features)

    @classmethod
    async def connect_usb(cls, serial: str, *, key: Path | None = None) -> Self:
        """Connect to a phone on a USB cable by its serial number; no adb server may hold it.

        Raises FleetError that says what to do.
        """
        mux, banner = await connect_usb(serial, key=key)
        return cls(serial, mux, banner.features)

    @classmethod
    async def connect_server(cls, serial: str, *, port: int | None = None) -> Self:
        """Use a phone that an adb server holds, on the port that adb uses. Raises FleetError."""
        connection = ServerConnection(serial, port or server_port())
        return cls(serial, connection, await connection.features())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self, service: str, window: int = WINDOW_BYTES) -> ByteStream:
        """Return a full-duplex stream to a service of the phone, for example `tcp:PORT` or
        `localabstract:NAME`; of many bytes it sends at once, about `window` are on their way.

        Raises StreamRefused, and FleetError when the phone does not answer.
        """
        with silence_reported(self.serial, f"the opening of {service!r}"):
            return await opened(self._connection, service, window)

    async def open_socket(self, service: str) -> socket.socket:
        """Return a connected local socket whose other end is a service of the phone; closing one closes
        both.
        """
        stream = await self.open(service, SOCKET_WINDOW)
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        pump = self._pumps[near] = Pump(stream, far)
        task = pump.start()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._pumps.pop(near, None))
        return near

    def transport_of(self, sock: socket.socket) -> StreamTransport | None:
        """Return what `open_socket` gave, without the socket, which is closed: what comes and goes costs half
        as much. None if the carrier has no streams of its own.

        Nothing may be under way on it.
        """
        pump = self._pumps.get(sock)
        if pump is None or not isinstance(pump.stream, Stream):
            return None
        transport = StreamTransport(pump.stream)
        pump.detach()
        return transport

    async def shell(
        self, command: str, *, stdin: bytes = b"", timeout: float | None = SHELL_SECONDS
    ) -> ShellResult:
        """Run a shell command on the phone and wait for it.

        Raises FleetError when it takes longer than `timeout` seconds or the connection is lost.
        """
        try:
            async with asyncio.timeout(timeout):
                if "shell_v2" in self.features:
                    return await self._shell_v2(command, stdin)
                return await self._shell_v1(command)
        except TimeoutError as error:
            raise FleetError(f"{self.serial}: {_shown(command)} took longer than {timeout} s") from error

    async def stat(self, remote: str) -> FileStat:
        """Return mode, size and time of a file; an errno and zeros when there is none. Raises FleetError."""
        with silence_reported(self.serial, f"a look at {remote}"):
            return await stat_file(self._connection, remote, v2="stat_v2" in self.features)

    async def push(
        self, content: Path | bytes, remote: str, *, mode: int = 0o644, progress: Progress | None = None
    ) -> None:
        """Write a file on the phone; `progress` gets bytes sent and bytes in all. Raises FleetError."""
        with silence_reported(self.serial, f"the push of {remote}"):
            await push_file(self._connection, content, remote, mode=mode, progress=progress)

    async def pull(self, remote: str, *, progress: Progress | None = None, limit: int = 1 << 30) -> bytes:
        """Return a file of the phone as bytes. Raises FleetError, also above `limit` bytes."""
        total = (await self.stat(remote)).size
        content = bytearray()
        with silence_reported(self.serial, f"the pull of {remote}"):
            async for chunk in pull_file(self._connection, remote):
                content += chunk
                if len(content) > limit:
                    raise FleetError(f"{remote} has more than {limit} bytes: use pull_to")
                if progress:
                    progress(len(content), total)
        return bytes(content)

    async def pull_to(self, remote: str, local: Path, *, progress: Progress | None = None) -> None:
        """Copy a file of the phone to `local`, which stays as it was unless all has come.

        Raises FleetError.
        """
        total = (await self.stat(remote)).size
        received = 0
        with replacing(local) as file, silence_reported(self.serial, f"the pull of {remote}"):
            async for chunk in pull_file(self._connection, remote):
                received += file.write(chunk)
                if progress:
                    progress(received, total)

    async def install_app(self, apk: Path, *, timeout: float = INSTALL_SECONDS) -> None:
        """Install an Android app, replacing an older version. Raises FleetError with Android's reason."""
        try:
            async with asyncio.timeout(timeout):
                stream = await self.open(f"exec:cmd package 'install' -r -S {apk.stat().st_size}")
                try:
                    output = await _install(stream, apk)
                finally:
                    stream.abort()
        except (TimeoutError, StreamRefused) as error:
            raise FleetError(f"{self.serial}: {apk.name} was not installed: {error or 'timeout'}") from error
        if not output.startswith("Success"):
            raise FleetError(f"{self.serial}: {apk.name} was not installed: {output or 'no reason given'}")

    @property
    def lost(self) -> str | None:
        """Return why the connection ended; None while it lives."""
        return self._connection.lost

    async def close(self) -> None:
        """Close the connection and every stream and socket on it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.close()

    async def _shell_v2(self, command: str, stdin: bytes) -> ShellResult:
        output = {Channel.STDOUT: bytearray(), Channel.STDERR: bytearray()}
        stream = await self.open(f"shell,v2,raw:{command}")
        # A command may write before it has read everything: both directions at once, or it would get stuck.
        feeding = asyncio.ensure_future(_feed(stream, stdin))
        try:
            decoder = ShellDecoder()
            while data := await stream.read():
                for channel, payload in decoder.feed(data):
                    if channel == Channel.EXIT:
                        stdout, stderr = bytes(output[Channel.STDOUT]), bytes(output[Channel.STDERR])
                        return ShellResult(stdout, stderr, payload[0] if payload else 0)
                    if channel in output:
                        output[channel] += payload
                if sum(map(len, output.values())) > MAX_OUTPUT:
                    raise FleetError(f"{self.serial}: {_shown(command)} wrote more than {MAX_OUTPUT} bytes")
        finally:
            stream.abort()
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
        raise FleetError(f"{self.serial}: {_shown(command)} ended without an exit code")

    async def _shell_v1(self, command: str) -> ShellResult:
        # Before Android 7 a shell mixes its outputs and tells no exit code: ask for it in band.
        stream = await self.open(f'shell:({command}\n); echo "|$?"')
        output = bytearray()
        try:
            while data := await stream.read():
                output += data
                if len(output) > MAX_OUTPUT:
                    raise FleetError(f"{self.serial}: {_shown(command)} wrote more than {MAX_OUTPUT} bytes")
        finally:
            stream.abort()
        text, _, code = bytes(output).replace(b"\r\n", b"\n").rstrip(b"\n").rpartition(b"|")
        if not code.isdigit():
            raise FleetError(f"{self.serial}: {_shown(command)} ended without an exit code")
        return ShellResult(text, b"", int(code))


def _shown(command: str) -> str:
    shown = command if len(command) <= COMMAND_SHOWN else f"{command[:COMMAND_SHOWN]}..."
    return f"the command {shown!r}"


async def _feed(stream: ByteStream, stdin: bytes) -> None:
    for at in range(0, len(stdin), STDIN_BYTES):
        await stream.write(encode(Channel.STDIN, stdin[at : at + STDIN_BYTES]))
    await stream.write(encode(Channel.CLOSE_STDIN))


async def _install(stream: ByteStream, apk: Path) -> str:
    with apk.open("rb") as file, suppress(FleetError):
        # A phone that refuses the app says why and hangs up while we still send.
        while block := file.read(APK_BYTES):
            await stream.write(block)
    output = bytearray()
    while (data := await stream.read()) and len(output) < STDIN_BYTES:
        output += data
    return output.decode(errors="replace").strip()
