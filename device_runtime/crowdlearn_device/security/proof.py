"""The proof that a device holds its identity's private key, for one connection to one host.

The host draws a key pair and a nonce for the question. What both agree on, from that pair and the identity,
authenticates all that was said, and the `binding`: what either end sees of the connection by itself. A proof
that was given to another host, or over another connection, is none.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from crowdlearn_device.errors import WireError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import VERSION

from .identity import KEY_BYTES, Identity, agree

NONCE_BYTES = 32


def new_nonce() -> bytes:
    """Return NONCE_BYTES for one connection."""
    return secrets.token_bytes(NONCE_BYTES)


def bound_to_pin(pin: str) -> bytes:
    """Return the binding of a TLS connection to a host whose certificate has this SHA-256 (hex): a device
    lets no other host end its TLS, so passing a proof on takes the host's key.
    """
    return b"tls" + bytes.fromhex(pin)


def bound_to_token(token: bytes) -> bytes:
    """Return the binding of a connection through adb for which this token was brought to the phone."""
    return b"adb" + hashlib.sha256(token).digest()


class Question:
    """The host's challenge to the device that sent `hello`, over a connection with this binding."""

    def __init__(self, hello: pb.Hello, binding: bytes) -> None:
        self._hello, self._binding = hello, binding
        self._private = X25519PrivateKey.generate()
        public = self._private.public_key().public_bytes_raw()
        self.challenge = pb.Challenge(nonce=new_nonce(), ephemeral=public)

    def is_answered(self, proof: pb.Proof) -> bool:
        """Return whether only the holder of the identity can have answered so. Raises EnvelopeError if what
        was shown as an identity is no key.
        """
        if len(self._hello.nonce) != NONCE_BYTES:
            return False
        secret = agree(self._private, self._hello.identity)
        return hmac.compare_digest(_mac(secret, self._hello, self.challenge, self._binding), proof.mac)


def answer(identity: Identity, hello: pb.Hello, challenge: pb.Challenge, binding: bytes) -> pb.Proof:
    """Return the proof that a host demands. Raises WireError if the challenge has another form, EnvelopeError
    if what it shows is no key.
    """
    if len(challenge.nonce) != NONCE_BYTES or len(challenge.ephemeral) != KEY_BYTES:
        raise WireError("a challenge of another form than this version knows; update the host")
    return pb.Proof(mac=_mac(agree(identity.private, challenge.ephemeral), hello, challenge, binding))


def _mac(secret: bytes, hello: pb.Hello, challenge: pb.Challenge, binding: bytes) -> bytes:
    parts = (
        hello.device.encode(),
        hello.identity,
        hello.nonce,
        challenge.nonce,
        challenge.ephemeral,
        binding,
    )
    return hmac.digest(secret, b"crowdlearn hello %d" % VERSION + b"".join(_framed(parts)), "sha256")


def _framed(parts: Iterable[bytes]) -> Iterable[bytes]:
    for part in parts:
        yield len(part).to_bytes(4, "big") + part
