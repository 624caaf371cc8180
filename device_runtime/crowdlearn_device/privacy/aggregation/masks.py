"""Masks: streams of words that only the one or two devices with the key can make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crowdlearn_device.security.identity import KEY_BYTES, agree

from .fixed_point import WORD_BYTES, Words

Range = tuple[int, int]
Ranges = tuple[Range, ...]
"""Stretches [start, stop) of the vector, ascending and apart."""


def stream(seed: bytes, words: int) -> Words:
    """Return uint32 [words] of ChaCha20 under the key `seed` (32 bytes)."""
    cipher = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(words * WORD_BYTES)), "<u4").astype(np.uint32, copy=False)


def pair_seed(private: X25519PrivateKey, public: bytes, context: bytes) -> bytes:
    """Return the seed that two devices agree on for a round: the same on both sides."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"mask" + context).derive(agree(private, public))


def common(one: Sequence[Range], other: Sequence[Range]) -> Ranges:
    """Return the stretches that lie in both."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        start, stop = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < stop:
            found.append((start, stop))
        if one[i][1] <= other[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def length(ranges: Sequence[Range]) -> int:
    """Return the number of positions in the stretches."""
    return sum(stop - start for start, stop in ranges)


def add_mask(vector: Words, own: Sequence[Range], where: Sequence[Range], mask: Words, sign: int) -> None:
    """Add `mask` uint32 [length(where)], times `sign`, to `vector` uint32 [length(own)] at `where`.

    `vector` holds the stretches `own` one after another; `where` lies within them.
    """
    at, taken, k = 0, 0, 0
    for start, stop in own:
        while k < len(where) and where[k][1] <= stop and where[k][0] >= start:
            size = where[k][1] - where[k][0]
            part = slice(at + where[k][0] - start, at + where[k][0] - start + size)
            if sign > 0:
                vector[part] += mask[taken : taken + size]
            else:
                vector[part] -= mask[taken : taken + size]
            taken += size
            k += 1
        at += stop - start
