"""Exact matrix products of integers modulo 2^32, through float64's BLAS.

Phones multiply floats fast and integers slowly. A float64 holds integers up to 2^53. That of an integer up
to 2^51, plus 1.5 * 2^52, has the integer modulo 2^32 as the lower word of its mantissa. So factors are cut
into two parts, such that sums of products stay within 2^51, and what is a multiple of 2^32 is left out.
"""

from __future__ import annotations

import sys
from math import prod

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
"""Bits of the lower part of what weights multiply."""
EXACT = 51
"""Bits of a sum's magnitude at most."""
MOST_SUMMED = 1 << (EXACT - (LIMB - 1) - WEIGHT_BITS)
"""Terms of a sum with weights at most."""
BLOCK = 1 << 10
"""Terms of a sum of two ring elements' products at a time: three parts of 10 bits are within EXACT."""
_SHIFTED = 1.5 * 2.0**52
_LOWER_WORD = 0 if sys.byteorder == "little" else 1


class RingProducts:
    """Products of matrices, with buffers that are kept between calls: fresh ones cost as much as products."""

    def __init__(self) -> None:
        self._buffers: dict[str, Doubles] = {}

    def with_weights(self, values: Ring, weights: Integers) -> Ring:
        """Return values [M, K] times weights [K, N], uint32 [M, N]; weights are less than 2^15 in magnitude.

        Raises ValueError if K is more than MOST_SUMMED.
        """
        if values.shape[1] > MOST_SUMMED:
            raise ValueError(f"sums of {values.shape[1]} products are not exact; at most {MOST_SUMMED} are")
        w = self._buffer("right", weights.shape)
        np.copyto(w, weights)
        found = np.zeros((values.shape[0], weights.shape[1]), np.uint32)
        self._add(found, self._lower("left", values, LIMB), w, 0)
        self._add(found, self._upper("left", values, LIMB), w, LIMB)
        return found

    def of_shares(self, left: Ring, right: Ring) -> Ring:
        """Return the transpose of left [B, M] times right [B, N], uint32 [M, N]."""
        found = np.zeros((left.shape[1], right.shape[1]), np.uint32)
        for start in range(0, len(left), BLOCK):
            self._add_block(found, left[start : start + BLOCK], right[start : start + BLOCK], flipped=True)
        return found

    def of_columns(self, matrix: Ring, columns: Ring) -> Ring:
        """Return a matrix [M, N] times columns [N, K], uint32 [M, K]."""
        found = np.zeros((matrix.shape[0], columns.shape[1]), np.uint32)
        for start in range(0, len(columns), BLOCK):
            part = matrix[:, start : start + BLOCK]
            self._add_block(found, part, columns[start : start + BLOCK], flipped=False)
        return found

    def _add_block(self, found: Ring, left: Ring, right: Ring, *, flipped: bool) -> None:
        """Add a product of at most BLOCK terms, with the left factor transposed if `flipped`.

        The lower part of the right factor meets the whole left one. The upper part meets those bits of the
        left one that stay in the ring.
        """
        cut = EXACT - (BITS - 1) + 1 - (len(right) - 1).bit_length()
        whole = self._buffer("left", left.shape)
        np.copyto(whole, left.view(np.int32))
        self._add(found, whole.T if flipped else whole, self._lower("right", right, cut), 0)
        within = self._lower("left", left, BITS - cut)
        self._add(found, within.T if flipped else within, self._upper("right", right, cut), cut)

    def _add(self, found: Ring, left: Doubles, right: Doubles, places: int) -> None:
        """Add left [M, K] times right [K, N] times 2^places to ring elements; sums are within 2^EXACT."""
        product = self._buffer("product", found.shape)
        np.matmul(left, right, out=product)
        product += _SHIFTED
        elements = product.reshape(-1).view(np.uint32)[_LOWER_WORD::2].reshape(found.shape)
        if places:
            shifted = self._integers(found.shape).view(np.uint32)
            elements = np.left_shift(elements, np.uint32(places), out=shifted)
        found += elements

    def _lower(self, name: str, values: Ring, bits: int) -> Doubles:
        """Return the lowest bits of values, with their sign: from -2^(bits - 1) on."""
        parts = self._integers(values.shape)
        np.left_shift(values.view(np.int32), BITS - bits, out=parts)
        np.right_shift(parts, BITS - bits, out=parts)
        return self._as_doubles(name, parts)

    def _upper(self, name: str, values: Ring, bits: int) -> Doubles:
        """Return what is left of values without `_lower`, over 2^bits."""
        parts = self._integers(values.shape)
        np.add(values.view(np.int32), np.int32(1 << (bits - 1)), out=parts)  # modulo 2^32
        np.right_shift(parts, bits, out=parts)
        return self._as_doubles(name, parts)

    def _as_doubles(self, name: str, parts: Integers) -> Doubles:
        found = self._buffer(name, parts.shape)
        np.copyto(found, parts)
        return found

    def _integers(self, shape: tuple[int, ...]) -> Integers:
        return self._buffer("integers", (-(-prod(shape) // 2),)).view(np.int32)[: prod(shape)].reshape(shape)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Doubles:
        size = prod(shape)
        known = self._buffers.get(name)
        if known is None or known.size < size:
            known = self._buffers[name] = np.empty(size)
        return known[:size].reshape(shape)
