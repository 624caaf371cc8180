"""The time that a device's processor spends on a message between devices, measured here."""

from __future__ import annotations

import asyncio
import socket
import time

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crowdlearn_device.piece.inbox import Message
from crowdlearn_device.piece.rounding import Rounding
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import (
    decode_frame,
    decode_message,
    decode_tensor,
    encode_frame,
    encode_tensor,
)
from crowdlearn_device.security.envelope import Channel
from crowdlearn_device.security.identity import Identity

from .message_stream import MessageStream

MESSAGES = 300
ROWS, NEURONS = 64, 50
"""The rows of the sums in a message: some 3 kB."""


class _End:
    """One of two devices that answer each other's messages, until `enough` have come."""

    def __init__(self, channel: Channel, piece: int, enough: asyncio.Event) -> None:
        self._channel, self._rounding, self._piece = channel, Rounding(0, piece), piece
        self._values = np.random.default_rng(piece).standard_normal((ROWS, NEURONS), np.float32)
        self.line: MessageStream
        self.came = 0
        self._enough = enough

    def say(self) -> None:
        """Send sums as a piece does."""
        purpose = pb.PURPOSE_ACTIVATION
        message = Message(1 - self._piece, purpose, self.came, 0, 1, ROWS, 0, self._values)
        values = encode_tensor(self._values, pb.INT8, self._rounding.of(message))
        sums = pb.Sums(step=self.came, micro=0, edge=0, micros=1, rows=ROWS, values=values)
        envelope = self._channel.seal(purpose, sums.SerializeToString())
        self.line.put(encode_frame(pb.Frame(envelope=envelope)))

    def take(self, data: bytes) -> None:
        """Receive sums as a piece does, and answer."""
        content = self._channel.open(decode_frame(data).envelope)
        decode_tensor(decode_message(pb.Sums, content).values)
        self.came += 1
        if self.came == MESSAGES // 2:
            self._enough.set()
        else:
            self.say()


def message_seconds() -> float:
    """Return the processor's seconds for a message of some 3 kB, at its sender and its receiver together, if
    each is waited for. Takes a fraction of a second; not for a thread in which an event loop runs.
    """
    return asyncio.run(_measured())


async def _measured() -> float:
    enough = asyncio.Event()
    ends = [_End(channel, piece, enough) for piece, channel in enumerate(_channels())]
    loop = asyncio.get_running_loop()
    for sock, end, client in zip(socket.socketpair(), ends, (True, False), strict=True):
        sock.setblocking(False)
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=sock)
        end.line = MessageStream(transport, end.take, client=client)
        transport.set_protocol(end.line)
    began = time.process_time()
    ends[0].say()
    await enough.wait()
    spent = time.process_time() - began
    for end in ends:
        end.line.abort()
    return spent / (ends[0].came + ends[1].came)


def _channels() -> tuple[Channel, Channel]:
    """Return the two ends of a channel between two devices."""
    identities = [Identity.generate(), Identity.generate()]
    keys = [X25519PrivateKey.generate(), X25519PrivateKey.generate()]
    public = [key.public_key().public_bytes_raw() for key in keys]
    one, other = (
        Channel("measured", 1, me, identities[me], keys[me], peer, identities[peer].public, public[peer])
        for me, peer in ((0, 1), (1, 0))
    )
    return one, other
