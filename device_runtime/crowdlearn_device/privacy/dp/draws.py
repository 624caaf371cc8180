"""The draws of DP-SGD in a pass: the samples that each step takes, and the noise of each piece.

All of them follow from one seed. Where that is a secret of the dominator, so are they: the dominator sends
each piece a key for its own noise of one step, and no piece can make another's. A step that is repeated after
a loss draws the same, and so ends in the same bits.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from math import isqrt

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

KEY_BYTES = 32
SEED_BYTES = 40
"""Bytes of a seed, which may be a run's or 256 secret bits."""


def most_drawn(batch: int) -> int:
    """Return the samples that a step in steps of about `batch` has room for, where its true number must not
    show. A larger draw has a probability below exp(-25), or 2e-11 (Bernstein's inequality, solved for it).
    """
    return batch + 10 + isqrt(50 * batch + 70)


class Draws:
    """The draws of the pass of `device` in `epoch`, with `samples` samples, in steps of about `batch`."""

    def __init__(self, seed: int, epoch: int, device: int, samples: int, batch: int) -> None:
        named = b"crowdlearn dp" + seed.to_bytes(SEED_BYTES, "little") + struct.pack("<QQ", epoch, device)
        self._root = hashlib.sha256(named).digest()
        self._samples = samples
        self.rate = min(1.0, batch / samples)
        """The probability with which a step takes a sample."""

    @property
    def expected(self) -> float:
        """Return the mean number of samples of a step, by which its sum is divided."""
        return self._samples * self.rate

    def rows(self, step: int) -> npt.NDArray[np.int64]:
        """Return the samples of a step, counted from 0 in the pass: each with probability `rate`. They are
        int64 [n], and n may be 0.
        """
        seed = int.from_bytes(self._derived(b"samples", struct.pack("<Q", step)), "little")
        chosen: npt.NDArray[np.int64] = np.flatnonzero(
            np.random.default_rng(seed).random(self._samples) < self.rate
        )
        return chosen

    def key(self, step: int, piece: int, bound: bytes = b"") -> bytes:
        """Return the key, 32 bytes, of a piece's noise in a step. With another `bound` it is another key."""
        return self._derived(b"noise", struct.pack("<QI", step, piece) + bound)

    def _derived(self, purpose: bytes, what: bytes) -> bytes:
        return hmac.digest(self._root, purpose + what, "sha256")


def gaussian(key: bytes, count: int) -> npt.NDArray[np.float32]:
    """Return `count` standard normal numbers under a key of 32 bytes, float32 [count], by Box and Muller from
    ChaCha20. Radii come from 53 bits each: tails that end earlier would count at a small delta.
    """
    pairs = -(-count // 2)
    cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    words = cipher.update(bytes(12 * pairs))
    high = np.frombuffer(words, "<u8", pairs) >> np.uint64(11)
    turns = np.frombuffer(words, "<u4", pairs, 8 * pairs).astype(np.float32) * np.float32(
        2 * np.pi * 2.0**-32
    )
    uniform = (high.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-53)
    radius = np.sqrt(np.float32(-2) * np.log(np.minimum(uniform, np.float32(1))))
    drawn = np.empty(2 * pairs, np.float32)
    np.multiply(radius, np.cos(turns), out=drawn[:pairs])
    np.multiply(radius, np.sin(turns), out=drawn[pairs:])
    return drawn[:count]
