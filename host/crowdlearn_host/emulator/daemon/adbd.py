"""The adb daemon of a virtual phone: handshake, then services on streams."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from crowdlearn_host.adb.carriers.joined import joined
from crowdlearn_host.adb.carriers.mux import Mux, Service, Stream
from crowdlearn_host.adb.wire.messages import HEADER_BYTES, VERSION, Message
from crowdlearn_host.adb.wire.shell_protocol import Channel, ShellDecoder, encode
from crowdlearn_host.adb.wire.streams import DELAYED_ACK
from crowdlearn_host.emulator.daemon.file_service import FileService
from crowdlearn_host.emulator.daemon.handshake import TOKEN_BYTES, Handshake
from crowdlearn_host.emulator.daemon.keys import KeyStore, fingerprint
from crowdlearn_host.emulator.daemon.reverse import Reverse
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.hardware.radio_link import DelayLine, Direction
from crowdlearn_host.emulator.processes.processes import Processes
from crowdlearn_host.emulator.shell.shell import PROMPT, CommandFunction, Io, Shell, run, run_interactive
from crowdlearn_host.errors import FleetError

MAX_STDIN = 64
BROKEN_PIPE = 141
"""The exit code of a command that wrote to a connection that is gone."""


class LinkBytes:
    """Bytes over the link of a phone since they were last taken."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def take(self) -> tuple[int, int]:
        """Return bytes sent and received; counting starts again."""
        counts = self.sent, self.received
        self.sent = self.received = 0
        return counts


@dataclass(frozen=True)
class Offer:
    """The services of the daemon, its identity, and over which link (none: as fast as this computer is)."""

    identity: str
    keys: KeyStore
    auto_accept: bool
    files: Filesystem
    processes: Processes
    commands: dict[str, CommandFunction]
    spawn_job: Callable[[Awaitable[int]], None]
    connections: "set[Adbd]"
    admits: Callable[[], bool]
    traffic: LinkBytes
    up: Direction | None
    down: Direction | None


class Adbd(Mux):
    """One connection of a computer to the phone."""

    def __init__(self, offer: Offer) -> None:
        super().__init__(find_service=self._find)
        self._offer = offer
        self._reverse = Reverse(self)
        self._sending = DelayLine(offer.up, super().send) if offer.up else None
        self._receiving = DelayLine(offer.down, self._act) if offer.down else None
        self._handshake = Handshake(
            offer.keys,
            offer.identity,
            new_token=lambda: os.urandom(TOKEN_BYTES),
            auto_accept=offer.auto_accept,
        )

    def admit(self, greeting: Message) -> None:
        """Go on with a computer whose key was verified by TLS."""
        try:
            self._answer(self._handshake.admit(greeting))
        except FleetError as error:
            self.fail(str(error))

    def waiting_key(self) -> str:
        """Return the fingerprint of the key that waits on this connection; "" if there is none."""
        key = self._handshake.pending_key
        return "" if key is None else fingerprint(key)

    def accept_key(self, shown: str) -> bool:
        """Accept the key of this fingerprint, if it waits on this connection; return whether it did."""
        waits = bool(shown) and self.waiting_key() == shown
        if waits:
            self._answer(self._handshake.accept())
        return waits

    def send(self, message: Message, before: Message | None = None) -> None:
        """Put a message on the link, behind one `before` it; nothing after the connection is lost."""
        if self.lost:
            return
        size = HEADER_BYTES + len(message.payload)
        ahead = 0 if before is None else HEADER_BYTES + len(before.payload)
        self._offer.traffic.sent += ahead + size
        if self._sending is None:
            super().send(message, before)
            return
        if before is not None:
            self._sending.put(before, ahead)
        self._sending.put(message, size)

    def receive(self, message: Message) -> None:
        """Take a message that the computer sent, when the link has carried it. Raises ProtocolError."""
        size = HEADER_BYTES + len(message.payload)
        self._offer.traffic.received += size
        if self._receiving:
            self._receiving.put(message, size)
        else:
            self._act(message)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._offer.connections.add(self)
        if not self._offer.admits():
            self.fail("unplugged")

    def connection_lost(self, exc: Exception | None) -> None:
        self._reverse.close()
        for line in (self._sending, self._receiving):
            if line:
                line.close()
        self._offer.connections.discard(self)
        super().connection_lost(exc)

    def _act(self, message: Message) -> None:
        if self.lost:
            return
        try:
            if self._handshake.online:
                super().receive(message)
            else:
                self._answer(self._handshake.receive(message))
        except FleetError as error:
            self.fail(str(error))

    def _answer(self, messages: list[Message]) -> None:
        for message in messages:
            self.send(message)
        if self._handshake.online:
            self.max_payload = self._handshake.max_payload
            self.expect_checksums(self._handshake.version < VERSION)
            self.count_bytes(DELAYED_ACK in self._handshake.peer_features)

    def _find(self, name: str) -> Service | None:
        kind, _, argument = name.partition(":")
        processes = self._offer.processes
        kind, *options = kind.split(",")
        match kind:
            case "sync":
                return FileService(self._offer.files, self.max_payload)
            case "exec":
                return lambda stream: self._run_detached(stream, argument)
            case "shell" if "v2" in options:
                prompt = b"" if "raw" in options else PROMPT
                return lambda stream: self._run_v2(stream, argument, prompt)
            case "shell":
                return lambda stream: self._run_plain(stream, argument)
            case "reverse":
                return lambda stream: self._reverse.serve(stream, argument)
            case "tcp" if argument.isdigit() and processes.listens(int(argument)):
                return lambda stream: _forward(stream, socket.AF_INET, ("127.0.0.1", int(argument)))
            case "localabstract" if address := processes.abstract_address(argument):
                return lambda stream: _forward(stream, socket.AF_UNIX, address)
        return None

    async def _run_shell(self, command: str, io: Io, prompt: bytes = PROMPT) -> int:
        shell = Shell(self._offer.files, self._offer.commands, self._offer.spawn_job)
        return await (run(shell, command, io) if command else run_interactive(shell, io, prompt))

    async def _run_plain(self, stream: Stream, command: str) -> None:
        await self._run_shell(command, Io(stream.read, stream.write, stream.write))

    async def _run_detached(self, stream: Stream, command: str) -> None:
        """Run a command that a lost connection does not end: it reads the end of its input, as on Android."""

        async def read() -> bytes:
            with suppress(FleetError):
                return await stream.read()
            return b""

        work = asyncio.ensure_future(self._run_shell(command, Io(read, stream.write, stream.write)))

        async def to_the_end() -> int:
            with suppress(FleetError):  # it writes, and nobody hears it
                return await work
            return BROKEN_PIPE

        self._offer.spawn_job(to_the_end())
        await asyncio.wait([work])

    async def _run_v2(self, stream: Stream, command: str, prompt: bytes) -> None:
        stdin = _Stdin(stream)

        async def write(data: bytes) -> None:
            await stream.write(encode(Channel.STDOUT, data))

        async def complain(data: bytes) -> None:
            await stream.write(encode(Channel.STDERR, data))

        reading = asyncio.ensure_future(stdin.fill())
        work = asyncio.ensure_future(self._run_shell(command, Io(stdin.read, write, complain), prompt))
        try:
            # The client hanging up ends the command, as a hang-up signal would.
            await asyncio.wait([reading, work], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await reading
                return
            await stream.write(encode(Channel.EXIT, bytes([await work & 0xFF])))
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
        """Return the next bytes; b"" at the end."""
        if self._ended:
            return b""
        chunk = await self._chunks.get()
        self._ended = not chunk
        return chunk


async def _forward(stream: Stream, family: socket.AddressFamily, address: tuple[str, int] | str) -> None:
    sock = socket.socket(family)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address)
    except OSError:
        sock.close()
        return
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await joined(stream, sock)
