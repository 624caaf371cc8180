"""Keys that a virtual phone trusts, in the format of Android's /data/misc/adb/adb_keys."""

import base64
import binascii
import hashlib
import struct
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1

MODULUS_BYTES = 256
_PUBLIC_KEY = struct.Struct(f"<II{MODULUS_BYTES}s{MODULUS_BYTES}sI")


def parse_public_key(line: bytes) -> RSAPublicKey | None:
    """Return the RSA key of `BASE64 user@host`, None if it is not one of 2048 bits."""
    try:
        raw = base64.b64decode(line.split(b" ")[0].strip(b"\0\n"), validate=True)
        words, _, modulus, _, exponent = _PUBLIC_KEY.unpack(raw)
        if words * 4 != MODULUS_BYTES:
            return None
        return RSAPublicNumbers(exponent, int.from_bytes(modulus, "little")).public_key()
    except (binascii.Error, struct.error, ValueError):
        return None


def fingerprint(line: bytes) -> str:
    """Return how a key is shown to people: SHA256 of its bytes, as ssh shows keys."""
    raw = base64.b64decode(line.split(b" ")[0].strip(b"\0\n"))
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


class KeyStore:
    """The file of trusted keys of one phone, one key a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def verifies(self, token: bytes, signature: bytes) -> bool:
        """Return whether one of the trusted keys signed the 20-byte token."""
        return any(_verifies(line, token, signature) for line in self._lines())

    def knows(self, key: RSAPublicKey) -> bool:
        """Return whether a key is trusted."""
        numbers = key.public_numbers()
        known = filter(None, map(parse_public_key, self._lines()))
        return any(each.public_numbers() == numbers for each in known)

    def trust(self, line: bytes) -> None:
        """Add a key; harmless when it is there."""
        if line not in self._lines():
            with self._path.open("ab") as file:
                file.write(line + b"\n")

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []


def _verifies(line: bytes, token: bytes, signature: bytes) -> bool:
    key = parse_public_key(line)
    if key is None:
        return False
    try:
        key.verify(signature, token, PKCS1v15(), Prehashed(SHA1()))
    except (InvalidSignature, ValueError):
        return False
    return True
