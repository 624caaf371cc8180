"""Real numbers as ring elements: fixed point, with as many fractional bits as a layer's sums leave room for.

The bits are public. No sum can leave the ring: they are chosen by the Cauchy-Schwarz inequality.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, frexp, log2

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.errors import DeviceError
from crowdlearn_device.protocol.frames import Floats

from .ring import BITS, WEIGHT_BITS, Integers, Ring

Bits = int | NDArray[np.int64]
"""Fractional bits: of all values, or of each sample's, int64 [B]."""
ROOM = BITS - 1
"""Bits of a sum's magnitude: one is the sign."""
SLACK = 1.02
"""The factor by which rounding may raise a norm."""
LEAST_BITS = 6
"""Bits that the largest of a layer's values must have at least."""
MOST_BITS = 40


class RingError(DeviceError):
    """A layer whose sums do not fit the ring."""


def encode(values: NDArray[np.floating], bits: Bits) -> Ring:
    """Return values rounded to multiples of 2^-bits, as uint32 of the same shape.

    Values are float32 [...].
    """
    scaled = np.asarray(values, np.float64) * power(bits, values.ndim)
    return as_ring(np.rint(scaled, out=scaled))


def as_ring(whole: NDArray[np.float64]) -> Ring:
    """Return whole numbers below 2^53 in magnitude, float64 [...], as ring elements."""
    return whole.astype(np.int64).astype(np.uint32)


def power(bits: Bits, dimensions: int) -> float | NDArray[np.float64]:
    """Return 2^bits; of each sample's, [B, 1, ...] in so many dimensions."""
    if isinstance(bits, int):
        return 2.0**bits
    found: NDArray[np.float64] = np.ldexp(1.0, bits).reshape(-1, *(1 for _ in range(dimensions - 1)))
    return found


def decode(values: Ring, bits: Bits) -> Floats:
    """Return the real numbers of ring elements, float32; those above half the ring are negative.

    Elements are uint32 [...].
    """
    found = values.view(np.int32).astype(np.float64)
    found *= power(-bits, values.ndim)
    return found.astype(np.float32)


def encode_weights(weights: Floats, bits: int) -> Integers:
    """Return weights rounded to multiples of 2^-bits, int32 below 2^15 in magnitude.

    Weights are float32 [...].
    """
    limit = (1 << WEIGHT_BITS) - 1
    return np.clip(np.rint(weights.astype(np.float64) * 2.0**bits), -limit, limit).astype(np.int32)


@dataclass(frozen=True)
class WeightFacts:
    """Public facts of a map's weights: the largest, and the largest norms of an output's and an input's."""

    largest: float
    output_norm: float
    input_norm: float


def bits_forward(
    largest: float, entering: float, column: float, weights: WeightFacts, name: str
) -> tuple[int, int]:
    """Return the fractional bits of activations and of weights.

    `largest` is the largest activation, `entering` the largest norm of those that enter one sum, and `column`
    that of one neuron's over a mini-batch. Both factors of a sum get errors of equal weight, and so do
    those of a gradient. Raises RingError if too few bits remain.
    """
    room = _room(entering * weights.output_norm)
    for_gradient = floor(ROOM / 2 - _log(column))
    of_weights = round((room + _log(entering) - _log(weights.output_norm)) / 2)
    of_weights = min(of_weights, WEIGHT_BITS - frexp(weights.largest)[1], MOST_BITS)
    of_values = min(room - of_weights, for_gradient, MOST_BITS)
    _check_enough(of_values, largest, name)
    _check_enough(of_weights, weights.largest, name)
    return of_values, of_weights


def bits_of_errors(largest: float, sums: Sequence[tuple[float, int]], name: str) -> int:
    """Return the fractional bits of errors: each of `sums` has a bound and its other factor's bits.

    Raises RingError if too few bits remain.
    """
    bits = min(MOST_BITS, *(_room(bound) - other for bound, other in sums))
    _check_enough(bits, largest, name)
    return bits


def _room(bound: float) -> int:
    """Return the fractional bits that both factors together may have, for sums of at most `bound`."""
    return floor(ROOM - _log(bound * SLACK**2))


def _log(value: float) -> float:
    return log2(max(value, 2.0**-MOST_BITS))


def _check_enough(bits: int, largest: float, name: str) -> None:
    left = bits + _log(largest)
    if largest > 0 and left < LEAST_BITS:
        raise RingError(
            f"{name}: a ring of {BITS} bits leaves its values {max(left, 0):.0f} bits; make mini-batches "
            "smaller, or keep this layer with the dominator"
        )
