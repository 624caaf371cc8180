"""Sealed snapshots: a piece's state for its heirs alone, in parts that a phone has room for.

Every snapshot has a key of its own, and each heir finds that key in the first part, sealed to its identity.
The part's number is the nonce; run, place, number and how many there are, are authenticated. So a part opens
as the one it was sealed as, after the one before it, or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from crowdlearn_device.errors import EnvelopeError
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.state.piece_state import PART_BYTES

from .envelope import derive, nonce_of
from .identity import Identity, agree

Split = Callable[[bytes, int, int], list[bytes]]
"""A secret, a threshold and a number of shares to that many shares (Shamir)."""


def seal_snapshot(
    run: str,
    identity: Identity,
    heirs: dict[int, bytes],
    place: pb.Snapshot,
    size: int,
    blocks: Iterable[bytes | memoryview],
    split: Split | None = None,
) -> Iterator[pb.Snapshot]:
    """Seal `blocks`, `size` bytes together, in parts like `place`, which each heir (number -> identity) can
    read, and no other device; one part at a time is in memory. With `split`, `place.needed` of them can
    together.
    """
    ephemeral = X25519PrivateKey.generate()
    key = ChaCha20Poly1305.generate_key()
    cipher = ChaCha20Poly1305(key)
    shares = split(key, place.needed, len(heirs)) if split is not None else [key] * len(heirs)
    parts = -(-size // PART_BYTES)
    for number, content in enumerate(_cut(blocks)):
        part = pb.Snapshot(part=number, parts=parts, ephemeral=ephemeral.public_key().public_bytes_raw())
        part.MergeFrom(place)
        associated = _associated(run, part)
        for k, (heir, public) in enumerate(sorted(heirs.items()) if number == 0 else ()):
            secret = agree(identity.private, public) + agree(ephemeral, public)
            sealed = _wrap(run, secret, place.sender, heir).encrypt(nonce_of(0), shares[k], associated)
            part.keys.add(device=heir, sealed=sealed, point=0 if split is None else k + 1)
        part.sealed = cipher.encrypt(nonce_of(number), content, associated)
        yield part


def _cut(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """Yield the same bytes, PART_BYTES at a time."""
    part = bytearray()
    for block in blocks:
        left = memoryview(block)
        while left:
            room = PART_BYTES - len(part)
            part += left[:room]
            left = left[room:]
            if len(part) == PART_BYTES:
                yield bytes(part)
                part.clear()
    if part:
        yield bytes(part)


def unwrapped(
    run: str, me: int, identity: Identity, sender_identity: bytes, first: pb.Snapshot
) -> tuple[int, bytes]:
    """Return what the first part of a snapshot holds for this heir: a share of the key and its point, or the
    key itself and 0.

    Raises EnvelopeError if the part does not name this device as heir, or is altered.
    """
    found = next((key for key in first.keys if key.device == me), None)
    if found is None:
        raise EnvelopeError(f"snapshot of piece {first.piece} is not sealed to device {me}")
    secret = agree(identity.private, sender_identity) + agree(identity.private, first.ephemeral)
    try:
        wrap = _wrap(run, secret, first.sender, me)
        return found.point, wrap.decrypt(nonce_of(0), found.sealed, _associated(run, first))
    except (InvalidTag, ValueError) as error:
        raise EnvelopeError(_altered(first)) from error


class SnapshotOpener:
    """The opener of a snapshot's parts as they come, with its key of 32 bytes."""

    def __init__(self, run: str, key: bytes) -> None:
        self._run, self._due, self._cipher = run, 0, ChaCha20Poly1305(key)

    def open(self, part: pb.Snapshot) -> bytes:
        """Return the content of the next part. Raises EnvelopeError if it is altered, or not the next."""
        try:
            content = self._cipher.decrypt(nonce_of(self._due), part.sealed, _associated(self._run, part))
        except InvalidTag as error:
            raise EnvelopeError(_altered(part)) from error
        self._due += 1
        return content


def _wrap(run: str, secret: bytes, sender: int, heir: int) -> ChaCha20Poly1305:
    return derive(secret, b"crowdlearn snapshot" + struct.pack("<II", sender, heir) + run.encode())


def _associated(run: str, part: pb.Snapshot) -> bytes:
    place = part.generation, part.boundary, part.piece, part.sender, part.part, part.parts, part.needed
    return struct.pack("<IQIIIII", *place) + part.ephemeral + run.encode()


def _altered(part: pb.Snapshot) -> str:
    return (
        f"part {part.part} of {part.parts} of the snapshot of piece {part.piece} by device {part.sender} is "
        "altered, or not the next"
    )
