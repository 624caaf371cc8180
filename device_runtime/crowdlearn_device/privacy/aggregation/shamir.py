"""Secrets in shares, of which a threshold tells all and fewer tell nothing (Shamir, 1979), byte by byte in
GF(256).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from crowdlearn_device.errors import AggregationError

MOST_SHARES = 255
Bytes = npt.NDArray[np.uint8]


def _tables() -> tuple[Bytes, Bytes]:
    exponents, logarithms = np.zeros(510, np.uint8), np.zeros(256, np.uint8)
    value = 1
    for power in range(255):
        exponents[power] = exponents[power + 255] = value
        logarithms[value] = power
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)  # times 3, a generator
        value &= 0xFF
    return exponents, logarithms


EXPONENTS, LOGARITHMS = _tables()


def _times(a: Bytes, b: Bytes) -> Bytes:
    """Return the products in GF(256) of uint8 arrays of one shape."""
    products: Bytes = EXPONENTS[LOGARITHMS[a].astype(np.int64) + LOGARITHMS[b]]
    products[(a == 0) | (b == 0)] = 0
    return products


def split(secret: bytes, threshold: int, shares: int) -> list[bytes]:
    """Return `shares` shares of a secret, each as long as it; share k is for point k + 1.

    Raises AggregationError if the threshold is not within 1 and `shares`, or there are more than 255.
    """
    if not 1 <= threshold <= shares <= MOST_SHARES:
        raise AggregationError(f"{threshold} of {shares} shares: the threshold lies within 1 and {shares}")
    length = len(secret)
    coefficients = np.frombuffer(secret + secrets.token_bytes(length * (threshold - 1)), np.uint8)
    rows = coefficients.reshape(threshold, length)
    made = []
    for point in range(1, shares + 1):
        at = np.full(length, point, np.uint8)
        value = rows[-1].copy()
        for row in rows[-2::-1]:
            value = _times(value, at) ^ row
        made.append(value.tobytes())
    return made


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """Return the secret of shares by their points (from 1).

    Raises AggregationError if there are fewer than `threshold`, or their lengths differ.
    """
    if len(shares) < threshold:
        raise AggregationError(f"{len(shares)} shares of a secret; {threshold} are needed")
    chosen = dict(sorted(shares.items())[:threshold])
    if len({len(share) for share in chosen.values()}) != 1:
        raise AggregationError("shares of different lengths; one is damaged")
    total = np.zeros(len(next(iter(chosen.values()))), np.uint8)
    for point, share in chosen.items():
        weight = 1
        for other in chosen:
            if other != point:
                weight = _scalar(weight, _scalar(other, _inverse(other ^ point)))
        total ^= _times(np.frombuffer(share, np.uint8), np.full(len(total), weight, np.uint8))
    return total.tobytes()


def _scalar(a: int, b: int) -> int:
    return int(_times(np.array([a], np.uint8), np.array([b], np.uint8))[0])


def _inverse(a: int) -> int:
    return int(EXPONENTS[255 - int(LOGARITHMS[a])])
