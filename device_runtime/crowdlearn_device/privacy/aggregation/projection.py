"""Random projections of what devices add to a secure sum, by which the host bounds the norms.

The seed is drawn once all masked values of an attempt are at the host. A device sends the projections of its
own values, ROWS words. Their size tells the norm, and all of them together must be those of the sum. So
devices that lie about them must lie in such a way that their lies cancel.

Entries are -1, 0, 0 and 1 alike. With -1 and 1 alone two numbers that are both off by half of the ring would
cancel in every row.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from .fixed_point import FixedPoint, Words
from .masks import Ranges

ROWS = 64
SEED_BYTES = 32
LARGEST_BOUND = 64.0
"""The largest norm whose projections cannot leave the ring: 45 deviations of them would fit."""
SLACK = 1.65
"""The measured norm over the true one that is still let pass. An honest device is above it with a probability
of (SLACK^2 exp(1 - SLACK^2))^(ROWS / 2), below 1e-10: the moments of these sums are at most a Gaussian's
(Achlioptas, "Database-friendly random projections", 2003), and this is Chernoff's bound for chi-squared.
"""
BLOCK = 1 << 12
"""Positions whose entries are drawn at a time, so that a holder draws for its own stretches alone."""
_BITS = 2 * ROWS


def projected(seed: bytes, own: Ranges, words: Words) -> Words:
    """Return the projections, uint32 [ROWS] modulo 2^32, of the vector that is `words` at the stretches `own`
    and 0 elsewhere. `words` are uint32 [length(own)].
    """
    values = words.view(np.int32).astype(np.float64)
    found, at = np.zeros(ROWS, np.int64), 0
    for first, last in own:
        for block in range(first // BLOCK, -(-last // BLOCK)):
            start, stop = max(first, block * BLOCK), min(last, (block + 1) * BLOCK)
            drawn = entries(seed, block)[start - block * BLOCK : stop - block * BLOCK]
            part = values[at : at + stop - start]
            found += (part @ drawn).astype(np.int64)  # exact: 2^12 terms below 2^31 each
            at += stop - start
    return found.astype(np.uint32)


def entries(seed: bytes, block: int) -> npt.NDArray[np.float64]:
    """Return the entries of a block of positions, float64 [BLOCK, ROWS]."""
    cipher = Cipher(ChaCha20(seed, bytes(8) + block.to_bytes(8, "little")), mode=None).encryptor()
    drawn = np.frombuffer(cipher.update(bytes(BLOCK * _BITS // 8)), np.uint8)
    bits = np.unpackbits(drawn).reshape(BLOCK, 2, ROWS).view(np.int8)
    return (bits[:, 0] - bits[:, 1]).astype(np.float64)


def square_of(projections: Words) -> float:
    """Return an estimate of the square of the norm, in steps of fixed point, of what was projected."""
    wide = projections.view(np.int32).astype(np.float64)
    return float(2 / ROWS * (wide @ wide))  # an entry's variance is a half


def largest_square(bound: float, numbers: FixedPoint, words: int) -> float:
    """Return the largest estimate that is let pass of `words` numbers in all with the norm `bound`."""
    rounding = sqrt(words) / 2
    norm = bound * (1 + 1e-5) * (1 << numbers.fraction) + rounding
    return (SLACK * norm) ** 2
