"""Exact matrix products of integers modulo 2^32, through float64's BLAS.

Phones multiply floats fast and integers slowly. A float64 holds integers up to 2^53, so sums of up to 2^21
products of 16-bit limbs are exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.uint32]
"""Integers modulo 2^32."""
Integers = NDArray[np.int32]
Doubles = NDArray[np.float64]
BITS = 32
WEIGHT_BITS = 15
"""Bits of a weight's magnitude."""
LIMB = 16
_LOW = np.uint32((1 << LIMB) - 1)
MOST_SUMMED = 1 << (53 - 2 * LIMB)
"""Terms of a sum at most."""


class RingProducts:
    """Products of matrices, with buffers that are kept between calls: fresh ones cost as much as products."""

    def __init__(self) -> None:
        self._buffers: dict[str, Doubles] = {}

    def with_weights(self, values: Ring, weights: Integers) -> Ring:
        """Return values [M, K] times weights [K, N], uint32 [M, N]; weights are less than 2^15 in magnitude.

        Raises ValueError if K is more than MOST_SUMMED.
        """
        _check(values.shape[1])
        w = self._buffer("w", weights.shape)
        w[...] = weights
        low, high = self._limbs("a", values)
        shape = values.shape[0], weights.shape[1]
        result, upper = self._buffer("result", shape), self._buffer("upper", shape)
        np.matmul(high, w, out=upper)
        np.matmul(low, w, out=result)
        return self._combined(result, upper)

    def of_shares(self, left: Ring, right: Ring) -> Ring:
        """Return the transpose of left [B, M] times right [B, N], uint32 [M, N].

        Raises ValueError if B is more than MOST_SUMMED.
        """
        _check(left.shape[0])
        (a, b), (c, d) = self._limbs("a", left), self._limbs("c", right)
        shape = left.shape[1], right.shape[1]
        result, upper = self._buffer("result", shape), self._buffer("upper", shape)
        np.matmul(a.T, d, out=upper)
        np.matmul(b.T, c, out=result)
        upper += result
        np.matmul(a.T, c, out=result)
        return self._combined(result, upper)

    def of_columns(self, matrix: Ring, columns: Ring) -> Ring:
        """Return a matrix [M, N] times columns [N, K], uint32 [M, K].

        Raises ValueError if N is more than MOST_SUMMED.
        """
        _check(matrix.shape[1])
        (a, b), (c, d) = self._limbs("a", matrix), self._limbs("c", columns)
        shape = matrix.shape[0], columns.shape[1]
        result, upper = self._buffer("result", shape), self._buffer("upper", shape)
        np.matmul(a, d, out=upper)
        np.matmul(b, c, out=result)
        upper += result
        np.matmul(a, c, out=result)
        return self._combined(result, upper)

    def _limbs(self, name: str, values: Ring) -> tuple[Doubles, Doubles]:
        low, high = self._buffer(f"{name} low", values.shape), self._buffer(f"{name} high", values.shape)
        np.bitwise_and(values, _LOW, out=low, casting="unsafe")
        np.right_shift(values, np.uint32(LIMB), out=high, casting="unsafe")
        return low, high

    def _combined(self, result: Doubles, upper: Doubles) -> Ring:
        """Return result + 2^16 * upper modulo 2^32; both are changed."""
        scratch = self._buffer("scratch", upper.shape)
        np.multiply(upper, 2.0**-LIMB, out=scratch)
        np.floor(scratch, out=scratch)
        scratch *= -(2.0**LIMB)
        upper += scratch  # now in [0, 2^16)
        upper *= 2.0**LIMB
        result += upper
        return result.astype(np.int64).astype(np.uint32)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Doubles:
        size = int(np.prod(shape))
        known = self._buffers.get(name)
        if known is None or known.size < size:
            known = self._buffers[name] = np.empty(size)
        return known[:size].reshape(shape)


def _check(summed: int) -> None:
    if summed > MOST_SUMMED:
        raise ValueError(f"sums of {summed} products are not exact; at most {MOST_SUMMED} are")
