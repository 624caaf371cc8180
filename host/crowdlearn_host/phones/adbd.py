"""The adb daemon of a virtual phone: handshake, then services on streams."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from crowdlearn_host.adb.mux import Mux, Service, Stream, pump
from crowdlearn_host.adb.shell_protocol import Channel, ShellDecoder, encode
from crowdlearn_host.adb.wire import VERSION, Message
from crowdlearn_host.phones.file_service import FileService
from crowdlearn_host.phones.filesystem import Filesystem
from crowdlearn_host.phones.handshake import TOKEN_BYTES, Handshake
from crowdlearn_host.phones.keys import KeyStore
from crowdlearn_host.phones.processes import Processes
from crowdlearn_host.phones.shell import CommandFunction, Io, Shell, run

MAX_STDIN = 64


@dataclass(frozen=True)
class Offer:
    """What the daemon serves, and as whom."""

    identity: str
    keys: KeyStore
    auto_accept: bool
    files: Filesystem
    processes: Processes
    commands: dict[str, CommandFunction]
    spawn_job: Callable[[Awaitable[int]], None]


class Adbd(Mux):
    """One connection of a computer to the phone."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(find_service=self._find)
        self._offer = offer
        self.handshake = Handshake(
            offer.keys,
            offer.identity,
            new_token=lambda: os.urandom(TOKEN_BYTES),
            auto_accept=offer.auto_accept,
        )

    def receive(self, message: Message) -> None:
        """Act on a message: the handshake first, streams when it is done."""
        if self.handshake.online:
            super().receive(message)
            return
        self._answer(self.handshake.receive(message))

    def accept_key(self) -> bool:
        """The owner accepts the key that waits on this connection, if there is one."""
        waiting = self.handshake.pending_key is not None
        self._answer(self.handshake.accept())
        return waiting

    def _answer(self, messages: list[Message]) -> None:
        for message in messages:
            self.send(message)
        if self.handshake.online:
            self.max_payload = self.handshake.max_payload
            self.expect_checksums(self.handshake.version < VERSION)

    def _find(self, name: str) -> Service | None:
        kind, _, argument = name.partition(":")
        if kind == "sync":
            return FileService(self._offer.files, self.max_payload)
        if kind == "exec":
            return lambda stream: self._run_plain(stream, argument)
        if kind.split(",")[0] == "shell":
            if "v2" in kind.split(","):
                return lambda stream: self._run_v2(stream, argument)
            return lambda stream: self._run_plain(stream, argument)
        if kind == "tcp" and argument.isdigit() and self._offer.processes.listens(int(argument)):
            return lambda stream: _forward(stream, int(argument))
        return None

    def _shell(self) -> Shell:
        return Shell(self._offer.files, self._offer.commands, self._offer.spawn_job)

    async def _run_plain(self, stream: Stream, command: str) -> None:
        await run(self._shell(), command, Io(stream.read, stream.write, stream.write))

    async def _run_v2(self, stream: Stream, command: str) -> None:
        stdin = _Stdin(stream)

        async def write(data: bytes) -> None:
            await stream.write(encode(Channel.STDOUT, data))

        async def complain(data: bytes) -> None:
            await stream.write(encode(Channel.STDERR, data))

        reading = asyncio.ensure_future(stdin.fill())
        work = asyncio.ensure_future(run(self._shell(), command, Io(stdin.read, write, complain)))
        try:
            # The client hanging up ends the command, as a hang-up signal would.
            await asyncio.wait([reading, work], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await reading
                return
            code = await work
            await stream.write(encode(Channel.EXIT, bytes([code & 0xFF])))
        finally:
            for task in (reading, work):
                task.cancel()
            await asyncio.gather(reading, work, return_exceptions=True)


class _Stdin:
    """Standard input of a shell,v2 command, cut out of its stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(MAX_STDIN)
        self._ended = False

    async def fill(self) -> None:
        """Read packets until the client hangs up."""
        decoder = ShellDecoder()
        while data := await self._stream.read():
            for channel, payload in decoder.feed(data):
                if channel == Channel.CLOSE_STDIN or (channel == Channel.STDIN and payload):
                    await self._chunks.put(payload if channel == Channel.STDIN else b"")

    async def read(self) -> bytes:
        if self._ended:
            return b""
        chunk = await self._chunks.get()
        self._ended = not chunk
        return chunk


async def _forward(stream: Stream, port: int) -> None:
    sock = socket.socket()
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    except OSError:
        sock.close()
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await pump(stream, sock)
