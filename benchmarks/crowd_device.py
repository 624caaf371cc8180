"""Devices that speak the group protocol and compute nothing: a crowd of them fits into one process.

What devices would seal is noise, which no relay can tell from anything else. A mini-batch is so many
messages from the dominator to each follower, each of which answers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION, decode_frame, encode_frame
from crowdlearn_device.transport.message_stream import MessageStream
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

RETRY_SECONDS = 0.2


@dataclass(frozen=True)
class Load:
    """Messages of so many bytes from the dominator to each follower, and back, in a mini-batch."""

    messages: int = 16
    size: int = 700


@dataclass(eq=False)
class LightDevice:
    """One device: what it has on its disk, and where it stands in a generation."""

    name: str
    samples: int
    load: Load
    trained: dict[int, int] = field(default_factory=dict)
    """As dominator: how often each mini-batch, by the boundary after it, was applied."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._identity = os.urandom(32)
        self._noise = os.urandom(self.load.size)
        self._assign = pb.Assign()
        self._line: MessageStream | None = None
        self._number = -1
        self._relay = 0
        self._again = 0.0
        self._step = self._answers = self._came = 0
        self._complete = self._patched = False
        self.sent = 0

    @property
    def welcomed(self) -> bool:
        """Whether the host knows this device."""
        return self._number >= 0

    async def serve(self, port: int, number: int) -> None:
        """Take part until the run is over, connecting again whenever the host is gone; the host is asked for
        this number.
        """
        while not self.finished.is_set():
            target, self._relay = self._relay or port, 0
            try:
                self._line = await dial(target, number, self._take)
            except OSError:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            hello = pb.Hello(version=VERSION, device=self.name, identity=self._identity, samples=self.samples)
            self._say(hello=hello)
            await self._line.ended()
            if not (self._relay or self.finished.is_set()):
                await asyncio.sleep(self._again or RETRY_SECONDS)
                self._again = 0.0

    def _say(self, **body: object) -> None:
        assert self._line is not None
        self._line.put(encode_frame(pb.Frame(**body)))  # type: ignore[arg-type]

    def _seal(self, receiver: int, purpose: pb.Purpose) -> None:
        envelope = pb.Envelope(
            generation=self._assign.generation,
            sender=self._number,
            receiver=receiver,
            purpose=purpose,
            sealed=self._noise,
        )
        self.sent += 1
        self._say(envelope=envelope)

    def _take(self, data: bytes) -> None:
        frame = decode_frame(data)
        kind = frame.WhichOneof("body") or ""
        body = getattr(frame, kind)
        if kind == "welcome" and body.relay:
            self._relay = int(body.relay.rpartition(":")[2])
        elif kind == "welcome" and body.again_seconds:
            self._again = body.again_seconds
        elif kind == "welcome":
            self._number = body.device
        elif kind == "assign":
            self._begin(body)
        elif kind == "finish":
            self.finished.set()
        elif kind == "ping":
            self._say(pong=pb.Pong(nonce=body.nonce, waiting=True))
        elif kind == "snapshot":
            self._provide(stored=True)
        elif kind not in ("committed", "heirs") and body.generation == self._assign.generation:
            getattr(self, f"_on_{kind}")(body)

    def _begin(self, assign: pb.Assign) -> None:
        self._assign = assign
        self._step, self._came, self._answers = assign.boundary, 0, 0
        self._complete, self._patched = False, not assign.patched
        offer = pb.KeyOffer(generation=assign.generation, device=self._number, ephemeral=bytes(32))
        self._say(key_offer=offer)

    @property
    def _followers(self) -> list[int]:
        return [piece.device for piece in self._assign.pieces[1:]]

    def _on_keys(self, _: pb.Keys) -> None:
        self._provide(stored=False)
        if self._assign.patched and not self._assign.from_generation:
            self._completed()

    def _provide(self, *, stored: bool) -> None:
        pieces = {p.piece for p in self._assign.provides if p.from_snapshot == stored}
        begins = self._assign.boundary == self._assign.pass_boundary
        for transfer in self._assign.transfers:
            if transfer.piece not in pieces:
                continue
            if transfer.device == self._number:
                self._completed()
            else:
                self._seal(transfer.device, pb.PURPOSE_SHUFFLE if begins else pb.PURPOSE_RECOVERY)

    def _on_global_state(self, _: pb.GlobalState) -> None:
        self._completed()

    def _on_patch(self, patch: pb.Patch) -> None:
        self._patched = patch.last
        self._say_ready()

    def _completed(self) -> None:
        self._complete = True
        self._say_ready()

    def _say_ready(self) -> None:
        if self._complete and self._patched and self._assign.piece >= 0:
            self._say(ready=pb.Ready(generation=self._assign.generation))

    def _on_go(self, _: pb.Go) -> None:
        if self._assign.piece == 0:
            self._feed()

    def _feed(self) -> None:
        self._answers = self.load.messages * len(self._followers)
        for _ in range(self.load.messages):
            for follower in self._followers:
                self._seal(follower, pb.PURPOSE_ACTIVATION)

    def _on_envelope(self, envelope: pb.Envelope) -> None:
        if envelope.purpose in (pb.PURPOSE_SHUFFLE, pb.PURPOSE_RECOVERY):
            self._completed()
        elif envelope.purpose == pb.PURPOSE_ACTIVATION:
            self._seal(envelope.sender, pb.PURPOSE_ERROR)
            self._came += 1
            if self._came == self.load.messages:
                self._came = 0
                self._applied()
        else:
            self._answers -= 1
            if not self._answers:
                self._applied()

    def _applied(self) -> None:
        self._step += 1
        assign = self._assign
        over = self._step == assign.pass_end
        if assign.piece == 0:
            self.trained[self._step] = self.trained.get(self._step, 0) + 1
            message = pb.Progress(
                generation=assign.generation,
                boundary=self._step,
                rows=1,
                pass_done=over,
                metrics=pb.Metrics(rows=1, loss=1.0),
            )
            self._say(progress=message)
        if over:
            snapshot = pb.Snapshot(
                generation=assign.generation,
                boundary=self._step,
                piece=assign.piece,
                sender=self._number,
                sealed=b"sealed",
                parts=1,
            )
            for heir in assign.heirs:
                snapshot.keys.add(device=heir)
            self._say(snapshot=snapshot)
            self._say(held=pb.Held(generation=assign.generation, boundary=self._step))
        elif assign.piece == 0:
            self._feed()

    def _on_share(self, share: pb.Share) -> None:
        self._say(shared=pb.Shared(generation=share.generation, last=True))


async def dial(port: int, number: int, take: Callable[[bytes], None]) -> MessageStream:
    """Messages to and from a host on this computer. Raises OSError where none answers."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[MessageStream] = loop.create_future()

    class Handshake(asyncio.Protocol):
        """Asks for a WebSocket, and hands the connection on."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self._transport, self._answer = cast(asyncio.Transport, transport), b""
            protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/{number}"))
            protocol.send_request(protocol.connect())
            self._transport.write(b"".join(protocol.data_to_send()))

        def data_received(self, data: bytes) -> None:
            self._answer += data
            if self._answer.endswith(b"\r\n\r\n"):
                stream = MessageStream(self._transport, take, client=True)
                self._transport.set_protocol(stream)
                made.set_result(stream)

        def connection_lost(self, exc: Exception | None) -> None:
            if not made.done():
                made.set_exception(exc or ConnectionError("the host hung up"))

    await loop.create_connection(Handshake, "127.0.0.1", port)
    return await made
