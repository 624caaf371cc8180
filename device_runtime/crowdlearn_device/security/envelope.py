"""Sealed envelopes: the messages between devices of a group, unreadable to the relay that carries them.

Two devices derive their keys from four X25519 agreements: between their lifelong identities, between the
ephemeral keys of the generation, and crosswise. Knowing an identity's public key is therefore enough to be
sure who answers, and a key that leaks later opens no earlier generation. One key per direction; the sequence
number is the nonce, so an envelope opens once and in order; what goes express is numbered by itself, for it
overtakes the rest. Identities are trusted at first sight
(docs/protocol.md says what that does not cover).
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crowdlearn_device.errors import EnvelopeError
from crowdlearn_device.protocol import wire_pb2 as pb

from .identity import KEY_BYTES, Identity, agree


def derive(secret: bytes, info: bytes) -> ChaCha20Poly1305:
    """Return the cipher that a secret gives for one purpose."""
    return ChaCha20Poly1305(HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(secret))


def nonce_of(sequence: int, lane: int = 0) -> bytes:
    """Return the nonce of a numbered message: 12 bytes."""
    return struct.pack("<IQ", lane, sequence)


_PLACE = struct.Struct("<IIIIi?B")
"""The part of an envelope's header that is authenticated: generation, sender, receiver, sequence number,
purpose, lane, messages beside the first.
"""


class Channel:
    """The two directions between this device and one peer, for one generation."""

    def __init__(
        self,
        run: str,
        generation: int,
        me: int,
        identity: Identity,
        ephemeral: X25519PrivateKey,
        peer: int,
        peer_identity: bytes,
        peer_ephemeral: bytes,
    ) -> None:
        self._run, self._generation, self._me, self._peer = run, generation, me, peer
        crossed = [agree(identity.private, peer_ephemeral), agree(ephemeral, peer_identity)]
        if me > peer:
            crossed.reverse()
        secret = b"".join(
            [agree(identity.private, peer_identity), *crossed, agree(ephemeral, peer_ephemeral)]
        )
        self._out = derive(secret, self._direction(me, peer))
        self._in = derive(secret, self._direction(peer, me))
        self.common = HKDF(SHA256(), KEY_BYTES, salt=None, info=self._pair(me, peer)).derive(secret)
        """A key of 32 bytes for the masks of both: the same on both sides, and of no third device."""
        self._authenticated = run.encode()
        self._sent = [0, 0]
        self._received = [0, 0]

    def _pair(self, one: int, other: int) -> bytes:
        place = struct.pack("<III", self._generation, min(one, other), max(one, other))
        return b"crowdlearn masks" + place + self._run.encode()

    def _direction(self, sender: int, receiver: int) -> bytes:
        return (
            b"crowdlearn envelope"
            + struct.pack("<III", self._generation, sender, receiver)
            + self._run.encode()
        )

    def seal(
        self, purpose: pb.Purpose, content: bytes, *, express: bool = False, more: int = 0
    ) -> pb.Envelope:
        """Return an envelope that only the peer can open, and only as the next of its lane from us; its
        content holds `more` messages beside the first.
        """
        number = self._sent[express]
        place = _PLACE.pack(self._generation, self._me, self._peer, number, purpose, express, more)
        sealed = self._out.encrypt(nonce_of(number, express), content, place + self._authenticated)
        self._sent[express] += 1
        return pb.Envelope(
            generation=self._generation,
            sender=self._me,
            receiver=self._peer,
            sequence=number,
            purpose=purpose,
            express=express,
            more=more,
            sealed=sealed,
        )

    def open(self, envelope: pb.Envelope) -> bytes:
        """Return the content of the next envelope from the peer.

        Raises EnvelopeError for a replay, a gap, a foreign or an altered envelope; the channel's state is
        then unchanged.
        """
        generation, sender, receiver = envelope.generation, envelope.sender, envelope.receiver
        if (generation, sender, receiver) != (self._generation, self._peer, self._me):
            raise EnvelopeError(
                f"envelope of generation {generation} from {sender} to {receiver} on the "
                f"channel of generation {self._generation} from {self._peer} to {self._me}"
            )
        express = envelope.express
        due = self._received[express]
        if envelope.sequence != due:
            kind = "replayed" if envelope.sequence < due else "out of order"
            raise EnvelopeError(
                f"{kind} envelope from device {self._peer}: number {envelope.sequence} where {due} was due"
            )
        try:
            place = _PLACE.pack(generation, sender, receiver, due, envelope.purpose, express, envelope.more)
            content = self._in.decrypt(nonce_of(due, express), envelope.sealed, place + self._authenticated)
        except (InvalidTag, struct.error) as error:
            raise EnvelopeError(
                f"envelope {envelope.sequence} from device {self._peer} is altered or not from that device"
            ) from error
        self._received[express] += 1
        return content
