"""Fixed point of DP-SGD: no sample gives more than the clip, and none depends on another."""

from __future__ import annotations

import numpy as np
import pytest
from crowdlearn_device.privacy.dp.draws import most_drawn
from crowdlearn_device.privacy.shares.linear_map import LinearMap, linear_map
from crowdlearn_device.privacy.shares.private import PrivateSharer
from crowdlearn_device.privacy.shares.ring import RingProducts
from crowdlearn_device.privacy.shares.triple import SharesError, facts_of, joined

KEYS = bytes(32), b"1" * 32, b"2" * 32
PAIRS = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
MAPS: dict[str, tuple[LinearMap, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "dense": (linear_map("dense", {}, ()), (30,), (30, 12), (12,)),
    "conv": (linear_map("conv", PAIRS, (6, 6)), (3, 6, 6), (3, 5, 3, 3), (5, 6, 6)),
    "depthwise": (linear_map("depthwise", PAIRS, (6, 6)), (4, 6, 6), (4, 1, 3, 3), (4, 6, 6)),
}


def sharer_of(kind: str, clip: float = 1.0, rows: int = 40) -> PrivateSharer:
    return PrivateSharer(2, MAPS[kind][0], KEYS, "edge 2", clip=clip, rows=rows)


def drawn(kind: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    _, entered, weights, left = MAPS[kind]
    shapes = (count, *entered), weights, (count, *left)
    values, of, errors = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    values *= np.exp(rng.standard_normal(count)).astype(np.float32).reshape(-1, *[1] * len(entered))
    return values, 0.2 * of, errors


def signed(ring: np.ndarray) -> np.ndarray:
    return ring.view(np.int32).astype(np.float64)


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("rows", [40, 1000, 20_000])
def test_no_rounded_gradient_has_a_larger_norm_than_is_allowed(kind: str, rows: int) -> None:
    """However few bits remain: with room for 20,000 samples an error has few."""
    values, weights, errors = drawn(kind, 20)
    sharer, linear = sharer_of(kind, 0.5, rows), MAPS[kind][0]
    shared = sharer.activations(7, values, facts_of(linear, weights))
    norms = np.sqrt(sharer.squares(7, errors))
    factors = np.minimum(0.5 / norms, 1.0)
    small = (errors * factors.reshape(-1, *[1] * (errors.ndim - 1))).astype(np.float32)
    allowed = norms * factors
    clipped = sharer.clipped(7, small, allowed, b"k" * 32)
    whole = signed(shared.secret)[:20], signed(clipped.secret)[:20]
    total = np.asarray(shared.bits) + np.asarray(clipped.bits)
    assert (np.ptp(total[:20]), len(shared.secret), len(clipped.secret)) == (0, rows, rows)
    found = np.sqrt(linear.gradient_squares(*whole)) * 2.0 ** -float(total[0])
    assert (found <= allowed * (1 + 1e-12)).all()
    exact = linear.gradient_squares(values.astype(np.float64), errors.astype(np.float64))
    np.testing.assert_allclose(norms**2, exact, rtol=5e-3)
    gradient = linear.gradient(RingProducts(), shared.secret, clipped.secret)
    summed = sharer.opened(gradient)
    if rows == 40:
        due = sum(_gradient(linear, values[k], small[k]) for k in range(20))
        assert np.abs(summed - due).max() < 0.04 * 0.5  # noise is about as large as the clip


def _gradient(linear: LinearMap, values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """By fine integers, whose sums stay in the ring."""
    rings = [np.rint(x[None] * 2.0**13).astype(np.int64).astype(np.uint32) for x in (values, errors)]
    return signed(linear.gradient(RingProducts(), *rings)) * 2.0**-26


@pytest.mark.parametrize("kind", MAPS)
def test_what_a_sample_gives_depends_on_no_other_sample(kind: str) -> None:
    values, weights, errors = drawn(kind, 8)
    others, _, further = drawn(kind, 8, seed=1)
    others[3], further[3] = values[3], errors[3]
    facts, found = facts_of(MAPS[kind][0], weights), []
    for x, d in ((values, errors), (1000 * others, 1000 * further)):
        x[3], d[3] = values[3], errors[3]
        sharer = sharer_of(kind)
        shared = [sharer.activations(7, x, facts), sharer.errors(7, d, facts)]
        allowed = np.full(8, 0.01)
        shared.append(sharer.clipped(7, d, allowed, b"k" * 32))
        found.append([each.secret[3] for each in shared])
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", MAPS)
def test_products_are_near_those_of_floats(kind: str) -> None:
    values, weights, errors = drawn(kind, 20)
    sharer, linear, products = sharer_of(kind), MAPS[kind][0], RingProducts()
    shared = sharer.activations(7, values, facts_of(linear, weights))
    whole = np.rint(weights.astype(np.float64) * 2.0**shared.weight_bits).astype(np.int32)
    for of, exact in ((linear.forward, values), (linear.backward, errors)):
        if of == linear.backward:
            shared = sharer.errors(7, errors, facts_of(linear, weights))
        answer = of(products, shared.secret, whole)
        found = joined((answer, np.zeros_like(answer)), shared)[: len(exact)]
        fine = of(
            products,
            np.rint(exact * 2.0**10).astype(np.int64).astype(np.uint32),
            np.rint(weights * 2.0**12).astype(np.int32),
        )
        near = signed(fine) * 2.0**-22
        scale = np.abs(near).reshape(len(near), -1).max(1).reshape(-1, *[1] * (near.ndim - 1))
        assert (np.abs(found - near) <= 5e-3 * scale).all()


def test_draws_beyond_the_room_and_errors_without_activations_are_refused() -> None:
    values, weights, errors = drawn("dense", 41)
    facts = facts_of(MAPS["dense"][0], weights)
    with pytest.raises(SharesError, match="41 samples were drawn, and there is room for 40"):
        sharer_of("dense").activations(0, values, facts)
    with pytest.raises(SharesError, match="came without its activations"):
        sharer_of("dense").errors(0, errors[:9], facts)
    assert [most_drawn(batch) for batch in (1, 32, 512)] == [21, 82, 682]
    for batch in (1, 2, 8, 33, 512, 60_000):
        beyond = most_drawn(batch) + 1 - batch
        assert np.exp(-(beyond**2) / (2 * (batch + beyond / 3))) <= np.exp(-25)
