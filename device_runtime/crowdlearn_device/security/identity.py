"""Lifelong identities of devices, and the secrets that two of them agree on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crowdlearn_device.errors import EnvelopeError, StateError
from crowdlearn_device.platform.files import write_atomically

KEY_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """A device's lifelong X25519 key pair."""

    private: X25519PrivateKey = field(repr=False)

    def secret(self, purpose: str) -> int:
        """Return 256 bits for one purpose that only the holder of this identity can derive."""
        hkdf = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"crowdlearn secret" + purpose.encode())
        return int.from_bytes(hkdf.derive(self.private.private_bytes_raw()), "little")

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        return cls(X25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Return the identity kept at `path`, made there (readable by its owner alone) at first use."""
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = cls.generate()
            write_atomically(path, fresh.private.private_bytes_raw(), private=True)
            return fresh
        data = path.read_bytes()
        if len(data) != KEY_BYTES:
            raise StateError(
                f"{path} holds {len(data)} bytes, a key has {KEY_BYTES}; delete it for a new identity"
            )
        return cls(X25519PrivateKey.from_private_bytes(data))


def agree(private: X25519PrivateKey, public: bytes) -> bytes:
    """Return the secret of two X25519 keys. Raises EnvelopeError if `public` is none."""
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise EnvelopeError(f"a peer's public key is not an X25519 key: {error}") from error
