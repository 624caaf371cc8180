"""Signed lists of devices: whom an owner trusts to name the devices that may take part.

A list is a JSON file with names, fingerprints and a signature (Ed25519). A device takes it for its own
conditions (assignments.json) if they name the signer's public key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crowdlearn_device.errors import PolicyError, StateError
from crowdlearn_device.platform.files import write_atomically

FILE = "devices.json"
KEY_BYTES = 32
_CONTEXT = b"crowdlearn devices 1\n"


def load_signer(path: Path) -> Ed25519PrivateKey:
    """Return the signer's key at `path`, made there (readable by its owner alone) at first use."""
    if not path.exists():
        fresh = Ed25519PrivateKey.generate()
        write_atomically(path, fresh.private_bytes_raw(), private=True)
        return fresh
    data = path.read_bytes()
    if len(data) != KEY_BYTES:
        raise StateError(f"{path} holds {len(data)} bytes, a key has {KEY_BYTES}; name another file")
    return Ed25519PrivateKey.from_private_bytes(data)


def signed_list(devices: Mapping[str, str], signer: Ed25519PrivateKey) -> str:
    """Return the list of devices, fingerprints by name, as a JSON file has it."""
    told = dict(sorted(devices.items()))
    signature = signer.sign(_signed(told)).hex()
    return json.dumps({"devices": told, "signature": signature}, indent=1) + "\n"


def read_list(text: str, signers: Sequence[str]) -> dict[str, str]:
    """Return the devices of a list, fingerprints by name, that one of the `signers` (public keys in
    hexadecimal digits) signed. Raises PolicyError if none did, or it is damaged.
    """
    try:
        told = json.loads(text)
        devices = {str(name): str(print_) for name, print_ in told["devices"].items()}
        signature = bytes.fromhex(told["signature"])
        keys = [Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)) for signer in signers]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PolicyError(f"{FILE} or its signers cannot be read ({error}); get the list anew") from error
    for key in keys:
        try:
            key.verify(signature, _signed(devices))
        except InvalidSignature:
            continue
        return devices
    raise PolicyError(f"{FILE} is signed by none of the signers that the owner trusts; get the list anew")


def _signed(devices: Mapping[str, str]) -> bytes:
    return _CONTEXT + json.dumps(devices, sort_keys=True, separators=(",", ":")).encode()
