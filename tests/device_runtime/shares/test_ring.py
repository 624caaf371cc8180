"""Products of limbs are those of integers modulo 2^32, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.privacy.shares.ring import BLOCK, MOST_SUMMED, RingProducts
from hypothesis import given, settings
from hypothesis import strategies as st

EXTREME = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFF, 0x10000, 0xFFFFFFFF], np.uint32)


def drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    values = rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    return np.where(rng.random(shape) < 0.3, rng.choice(EXTREME, shape), values)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 40), st.integers(0, 1 << 30))
def test_products_are_exact(rows: int, summed: int, columns: int, seed: int) -> None:
    rng, products = np.random.default_rng(seed), RingProducts()
    values = drawn(rng, (rows, summed))
    weights = rng.integers(-(2**15) + 1, 2**15, (summed, columns)).astype(np.int32)
    expected = values.astype(np.uint64) @ weights.astype(np.int64).astype(np.uint64)
    np.testing.assert_array_equal(products.with_weights(values, weights), expected.astype(np.uint32))
    left, right = drawn(rng, (summed, rows)), drawn(rng, (summed, columns))
    expected = left.T.astype(np.uint64) @ right.astype(np.uint64)
    np.testing.assert_array_equal(products.of_shares(left, right), expected.astype(np.uint32))
    flipped = np.ascontiguousarray(left.T)
    np.testing.assert_array_equal(products.of_columns(flipped, right), expected.astype(np.uint32))


def test_the_largest_sums_are_exact() -> None:
    products, count = RingProducts(), 3 * BLOCK + 1
    for element in (0x80000000, 0x7FFFFFFF):
        x = np.full((count, 1), element, np.uint32)
        expected = count * element * element % (1 << 32)
        assert products.of_shares(x, x)[0, 0] == expected
        assert products.of_columns(x.T, x)[0, 0] == expected
        for weight in (2**15 - 1, -(2**15) + 1):
            most = np.full((1, MOST_SUMMED), element, np.uint32)
            found = products.with_weights(most, np.full((MOST_SUMMED, 1), weight, np.int32))
            assert found[0, 0] == MOST_SUMMED * element * weight % (1 << 32)
    with pytest.raises(ValueError, match="not exact"):
        products.with_weights(
            np.ones((1, MOST_SUMMED + 1), np.uint32), np.ones((MOST_SUMMED + 1, 1), np.int32)
        )
