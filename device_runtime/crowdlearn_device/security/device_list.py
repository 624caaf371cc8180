"""Signed lists of devices: whom an owner trusts to name the devices that may take part.

A list is a JSON file with names, fingerprints, the signer's public key and a signature (Ed25519). A device
takes it for its own conditions (assignments.json) if they name that key. A link has the same in short, for a
code that cameras read.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crowdlearn_device.errors import PolicyError, StateError
from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol.invitation import SCHEME

FILE = "devices.json"
KEY_BYTES = 32
LISTED = "devices"
"""The part of a link that tells a list from an invitation."""
MOST_CHARACTERS = 2900
"""Characters of a link: as many as the largest code holds (version 40, least correction: 2,953 bytes)."""
MOST_UNPACKED = 1 << 16
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
    fields = dict(sorted(devices.items()))
    signature = signer.sign(_signed(fields)).hex()
    public = signer.public_key().public_bytes_raw().hex()
    return json.dumps({"devices": fields, "signer": public, "signature": signature}, indent=1) + "\n"


def signer_of(text: str) -> str:
    """Return the public key that a list names as its signer's, which did sign it. Raises PolicyError if not.

    It is for an owner to compare: a list that others signed looks alike.
    """
    try:
        signer = str(json.loads(text)["signer"])
    except (ValueError, KeyError, TypeError) as error:
        raise PolicyError(f"the list names no signer ({error}); sign it anew with 'sign-list'") from error
    read_list(text, [signer])
    return signer


def link_of(text: str) -> str:
    """Return a list as a link. Raises PolicyError if it is more than one code holds."""
    signer_of(text)
    packed = zlib.compress(json.dumps(json.loads(text), separators=(",", ":")).encode(), 9)
    link = f"{SCHEME}://{LISTED}?list={base64.urlsafe_b64encode(packed).decode()}"
    if len(link) > MOST_CHARACTERS:
        count = len(read_list(text, [signer_of(text)]))
        raise PolicyError(
            f"{count} devices take {len(link)} characters, and a code holds {MOST_CHARACTERS}; copy "
            f"the file to HOME/{FILE} of each device"
        )
    return link


def list_of_link(link: str) -> str:
    """Return the list in a link, as a JSON file has it. Raises PolicyError if it has none that was signed."""
    try:
        parts = urlsplit(link.strip())
        if (parts.scheme, parts.netloc) != (SCHEME, LISTED) or len(link) > MOST_CHARACTERS:
            raise ValueError("another kind of link")
        (packed,) = parse_qs(parts.query, strict_parsing=True, max_num_fields=2)["list"]
        unpacking = zlib.decompressobj()
        output = unpacking.decompress(base64.urlsafe_b64decode(packed), MOST_UNPACKED)
        if not unpacking.eof:
            raise ValueError("it is cut off, or too long")
        text = json.dumps(json.loads(output), indent=1) + "\n"
    except (ValueError, KeyError, zlib.error) as error:
        raise PolicyError(
            f"{link[:60]!r} has no list of devices ({error}); scan what 'crowdlearn device-list' shows"
        ) from error
    signer_of(text)
    return text


def read_list(text: str, signers: Sequence[str]) -> dict[str, str]:
    """Return the devices of a list, fingerprints by name, that one of the `signers` (public keys in
    hexadecimal digits) signed. Raises PolicyError if none did, or it is damaged.
    """
    try:
        content = json.loads(text)
        devices = {str(name): str(print_) for name, print_ in content["devices"].items()}
        signature = bytes.fromhex(content["signature"])
        keys = [Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer)) for signer in signers]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
