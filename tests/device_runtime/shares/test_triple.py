"""Three helpers compute linear maps and their gradients exactly, from shares that are random."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest
from crowdlearn_device.privacy.shares.fixed_point import RingError, decode, encode, encode_weights
from crowdlearn_device.privacy.shares.linear_map import LinearMap, linear_map
from crowdlearn_device.privacy.shares.replicated import own_keys
from crowdlearn_device.privacy.shares.ring import Ring, RingProducts
from crowdlearn_device.privacy.shares.triple import Helper, Received, Shared, Sharer, SharesError, joined

KEYS = (b"a" * 32, b"b" * 32, b"c" * 32)
CONVOLUTION = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
MAPS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "dense": ("dense", {}, (12,), (12, 7), (7,)),
    "dense after maps": ("dense", {}, (3, 5), (3, 5, 4), (4,)),
    "convolution": ("conv", CONVOLUTION, (3, 7, 6), (3, 4, 3, 2), (4, 4, 4)),
    "depthwise": ("depthwise", CONVOLUTION, (5, 7, 6), (5, 1, 3, 2), (5, 4, 4)),
}
"""Kind, attributes, and shapes of a sample's activations, of the weights, and of a sample's sums."""
ROWS = 9


@dataclass
class Case:
    linear: LinearMap
    values: np.ndarray
    weights: np.ndarray
    errors: np.ndarray


def case_of(name: str, seed: int = 0) -> Case:
    kind, told, source, shape, target = MAPS[name]
    rng = np.random.default_rng(seed)
    values, errors = (rng.standard_normal((ROWS, *s)).astype(np.float32) for s in (source, target))
    weights = 0.3 * rng.standard_normal(shape).astype(np.float32)
    return Case(linear_map(kind, told, source[1:]), values, weights, 0.01 * errors)


def terms(name: str) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Every product of the map by definition: positions in activations, weights and sums of one sample."""
    kind, _, source, shape, target = MAPS[name]
    if kind == "dense":
        for place in itertools.product(*map(range, shape)):
            yield place[:-1], place, (place[-1],)
        return
    (kh, kw), (sy, sx), (py, px), (dy, dx) = (
        CONVOLUTION[k] for k in ("kernel", "stride", "padding", "dilation")
    )
    for c, o, y, x, i, j in itertools.product(
        range(source[0]), range(target[0]), range(target[1]), range(target[2]), range(kh), range(kw)
    ):
        at = c, y * sy + i * dy - py, x * sx + j * dx - px
        if not (0 <= at[1] < source[1] and 0 <= at[2] < source[2]):
            continue
        if kind == "conv":
            yield at, (c, o, i, j), (o, y, x)
        elif c == o:
            yield at, (c, 0, i, j), (o, y, x)


def by_definition(name: str, values: Any, weights: Any, errors: Any) -> tuple[Any, Any, Any]:
    """Sums, errors of what entered, and gradient; of objects, so that integers never overflow."""
    sums: Any = np.zeros((len(values), *MAPS[name][4]), values.dtype)
    back, gradient = np.zeros_like(values), np.zeros_like(weights)
    for a, w, y in terms(name):
        sums[:, *y] += values[:, *a] * weights[w]
        back[:, *a] += errors[:, *y] * weights[w]
        gradient[w] += (values[:, *a] * errors[:, *y]).sum()
    return sums, back, gradient


def answered(answers: list[Ring | None]) -> tuple[Ring, Ring]:
    """The two answers of three helpers."""
    first, second = (each for each in answers if each is not None)
    return first, second


class Triple:
    def __init__(self, linear: LinearMap, weights: np.ndarray) -> None:
        self.sharer = Sharer(4, linear, KEYS, "the layer")
        self.helpers = [Helper(4, linear, p, own_keys(KEYS, p), RingProducts()) for p in range(3)]
        for helper in self.helpers:
            helper.take_weights(weights)
        self.facts = self.helpers[0].facts

    def run(self, step: int, values: np.ndarray, errors: np.ndarray) -> tuple[Any, Any, Any, Shared, Shared]:
        first = self.sharer.activations(step, values, self.facts)
        answers = [h.forward(Received.at(p, first)) for p, h in enumerate(self.helpers)]
        sums = joined(answered(answers), first)
        second = self.sharer.errors(step, errors, self.facts)
        answers = [h.backward(Received.at(p, second)) for p, h in enumerate(self.helpers)]
        back = joined(answered(answers), second)
        parts = tuple(helper.gradient(step) for helper in self.helpers)
        gradients = [helper.opened(parts) for helper in self.helpers]
        for other in gradients[1:]:
            np.testing.assert_array_equal(gradients[0], other)
        return sums, back, gradients[0], first, second


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("step", [0, 1, 2])
def test_shares_give_the_bits_of_an_integer_reference(name: str, step: int) -> None:
    case = case_of(name)
    triple = Triple(case.linear, case.weights)
    sums, back, gradient, first, second = triple.run(step, case.values, case.errors)
    integers = [
        encode(x, b).view(np.int32).astype(object)
        for x, b in ((case.values, first.bits), (case.errors, second.bits))
    ]
    weights = encode_weights(case.weights, first.weight_bits).astype(object)
    expected = by_definition(name, integers[0], weights, integers[1])
    bits = (
        first.bits + first.weight_bits,
        second.bits + first.weight_bits,
        first.bits + second.bits,
    )
    for found, exact, b in zip((sums, back, gradient), expected, bits, strict=True):
        assert max(abs(int(x)) for x in exact.ravel()) < 1 << 31, "a sum left the ring"
        wrapped = np.array([int(x) % (1 << 32) for x in exact.ravel()], np.uint32).reshape(exact.shape)
        np.testing.assert_array_equal(found, decode(wrapped, b))


@pytest.mark.parametrize("name", MAPS)
def test_sums_and_gradients_are_near_those_of_float64(name: str) -> None:
    case = case_of(name, seed=1)
    found = Triple(case.linear, case.weights).run(0, case.values, case.errors)[:3]
    expected = by_definition(name, *(x.astype(np.float64) for x in (case.values, case.weights, case.errors)))
    for array, exact in zip(found, expected, strict=True):
        assert np.abs(array - exact).max() <= 1e-3 * np.abs(exact).max()


def test_at_a_users_size_sums_and_gradients_are_near_those_of_float64() -> None:
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((512, 400)), 0).astype(np.float32)
    weights = (rng.uniform(-1, 1, (400, 200)) / 20).astype(np.float32)
    errors = (rng.standard_normal((512, 200)) / 512 * rng.random((512, 1)) ** 3).astype(np.float32)
    sums, back, gradient = Triple(linear_map("dense", {}, ()), weights).run(0, values, errors)[:3]
    a, w, d = (x.astype(np.float64) for x in (values, weights, errors))
    for found, exact in ((sums, a @ w), (back, d @ w.T), (gradient, a.T @ d)):
        assert np.abs(found - exact).max() <= 1e-3 * np.abs(exact).max()


@pytest.mark.parametrize("position", [0, 1, 2])
def test_what_one_helper_holds_is_uniformly_random(position: int) -> None:
    case = case_of("dense")
    case.values[:] = 1.0  # the same secret everywhere
    triple = Triple(case.linear, case.weights)
    held = []
    for step in range(200):
        shared = triple.sharer.activations(step, case.values, triple.facts)
        helper = triple.helpers[position]
        helper.keep(Received.at(position, shared))
        pair = helper._pairs[0][0]
        held += [pair.first.ravel(), pair.second.ravel(), (pair.first + pair.second).ravel()]
    values = np.concatenate(held)
    assert len(np.unique(values)) > 0.999 * len(values)
    counts = np.bincount(values >> 24, minlength=256)
    expected = len(values) / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400  # chi square of 255 degrees: 1e-8


def test_masked_parts_of_a_gradient_are_random_one_by_one() -> None:
    case = case_of("dense")
    triple = Triple(case.linear, case.weights)
    parts = []
    for step in range(3, 300, 3):  # the same roles
        for shared in (
            triple.sharer.activations(step, case.values, triple.facts),
            triple.sharer.errors(step, np.full_like(case.errors, 0.01), triple.facts),
        ):
            for position, helper in enumerate(triple.helpers):
                helper.keep(Received.at(position, shared))
        parts.append([helper.gradient(step) for helper in triple.helpers])
        triple.helpers[0].opened(tuple(parts[-1]))
    for position in range(3):
        seen = np.concatenate([part[position].ravel() for part in parts])
        assert len(np.unique(seen)) > 0.999 * len(seen)


def test_a_ring_too_small_for_a_layer_is_refused_with_what_would_do() -> None:
    sharer = Sharer(0, linear_map("dense", {}, ()), KEYS, "layer 1")
    helper = Helper(0, linear_map("dense", {}, ()), 0, own_keys(KEYS, 0), RingProducts())
    helper.take_weights(np.full((5_000_000, 2), 0.5, np.float32))
    with pytest.raises(RingError, match=r"layer 1: a ring of 32 bits .* keep this layer with the dominator"):
        sharer.activations(0, np.ones((1, 5_000_000), np.float32), helper.facts)


def test_what_is_not_due_is_refused() -> None:
    case = case_of("dense")
    triple = Triple(case.linear, case.weights)
    with pytest.raises(SharesError, match="before activations"):
        triple.sharer.errors(0, case.errors, triple.facts)
    shared = triple.sharer.activations(1, case.values, triple.facts)
    with pytest.raises(ValueError, match="did not get part 2"):
        triple.helpers[0].forward(replace(Received.at(0, shared), third=None))
    with pytest.raises(SharesError, match="three were due"):
        triple.helpers[0].opened((np.zeros(1, np.uint32),))


def test_a_large_dense_layer_is_shared_in_one_message_of_four_bytes_a_value() -> None:
    case = case_of("dense")
    triple = Triple(case.linear, case.weights)
    shared = triple.sharer.activations(0, case.values, triple.facts)
    assert shared.third.nbytes == 4 * prod(case.values.shape)
