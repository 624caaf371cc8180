"""Replicated shares: a value in three parts, of which each role of a triple holds two.

Three helpers stand in a circle. Every two neighbours have a key in common, which the dominator drew. They
take the roles 0, 1 and 2 in turn, by mini-batch, so that work and bytes are the same for all. Parts 0 and 1
are streams of keys; part 2 alone travels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from .ring import Ring

HELPERS = 3
KEY_BYTES = 32
ACTIVATIONS, ERRORS, GRADIENTS, CLIPPED = range(4)
"""Kinds of arrays that are shared or masked; clipped errors are those of DP-SGD, for gradients alone."""
Keys = tuple[bytes, bytes, bytes]
"""Key p is that of the helpers at positions p and p + 1."""


@dataclass(frozen=True)
class Place:
    """The place of an array in a generation. No stream is used twice: keys live for one generation."""

    step: int
    edge: int
    kind: int


@dataclass(frozen=True)
class Pair:
    """Two of an array's three parts, uint32 of its shape: role r holds parts r and r + 1."""

    first: Ring
    second: Ring


def role_of(position: int, step: int) -> int:
    """Return the role of the helper at a position in a mini-batch."""
    return (position + step) % HELPERS


def stream(key: bytes, place: Place, shape: tuple[int, ...]) -> Ring:
    """Return ring elements that are random to all but the holders of `key`, uint32 of this shape."""
    nonce = struct.pack("<IQI", 0, place.step, 4 * place.edge + place.kind)
    cipher = Cipher(ChaCha20(key, nonce), mode=None).encryptor()
    drawn = np.frombuffer(cipher.update(bytes(4 * prod(shape))), "<u4")
    return drawn.astype(np.uint32, copy=False).reshape(shape)


def third_part(secret: Ring, keys: Keys, place: Place) -> Ring:
    """Return part 2 of a secret, which travels to roles 1 and 2."""
    first = role_of(0, -place.step)  # the position of role 0
    known = (keys[(first - 1) % HELPERS], keys[first])
    return secret - stream(known[0], place, secret.shape) - stream(known[1], place, secret.shape)


def pair_of(
    position: int, own: tuple[bytes, bytes], third: Ring | None, place: Place, shape: tuple[int, ...]
) -> Pair:
    """Return what the helper at `position` holds of an array, and where part 2 is due, from `third`.

    `own` are its keys with the helper before and the one after it. Raises ValueError if part 2 is missing.
    """
    role = role_of(position, place.step)
    if role == 0:
        return Pair(stream(own[0], place, shape), stream(own[1], place, shape))
    if third is None:
        raise ValueError(f"role {role} did not get part 2")
    if role == 1:
        return Pair(stream(own[0], place, shape), third)
    return Pair(third, stream(own[1], place, shape))


def own_keys(keys: Keys, position: int) -> tuple[bytes, bytes]:
    """Return the keys that the helper at `position` knows, with the one before it and the one after it."""
    return keys[(position - 1) % HELPERS], keys[position]


def zero_mask(own: tuple[bytes, bytes], place: Place, shape: tuple[int, ...]) -> Ring:
    """Return one helper's part of zero: those of the three helpers add up to it."""
    return stream(own[1], place, shape) - stream(own[0], place, shape)
