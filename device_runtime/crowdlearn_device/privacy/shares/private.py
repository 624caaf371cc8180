"""Fixed point of DP-SGD on shares: what a sample gives depends on no other sample, and no bits are public.

Every sample has bits of its own, which the dominator keeps to itself. Those of its activations and clipped
errors add up to the bits of the gradient, which follow from the clip. The dominator opens the gradient, adds
noise, and sends what comes of it. Mini-batches are filled up with zeros, so that draws look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, frexp, log2

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.protocol.frames import Floats

from .fixed_point import SLACK, WeightFacts, as_ring, decode, encode, power
from .linear_map import LinearMap
from .replicated import ACTIVATIONS, CLIPPED, ERRORS, Keys, Place, stream, third_part
from .ring import BITS, Doubles, Ring
from .triple import Shared, SharesError

SIGNIFICANT, OF_WEIGHTS, OF_ERRORS = 12, 13, 24
"""Bits of a sample's largest activation, of the largest weight, and of a sample's largest error, at most."""
LEAST, MOST = -40, 60
"""Fractional bits, at least and at most."""
ROUNDS, SHRINK = 14, 2.0**-15
"""Roundings that are tried until a gradient's norm is within the clip. A step of rounding may be coarse: each
time errors shrink by twice as much beyond that, from `SHRINK` on.
"""


@dataclass(frozen=True)
class _Step:
    """A mini-batch's activations as whole numbers, float64 [rows, ...], their bits, int64 [rows], and those
    of the weights.
    """

    number: int
    whole: Doubles
    bits: NDArray[np.int64]
    weight_bits: int


class PrivateSharer:
    """The dominator's side of one linear map in steps of DP-SGD, with room for `rows` samples."""

    def __init__(
        self, edge: int, linear: LinearMap, keys: Keys, name: str, *, clip: float, rows: int
    ) -> None:
        self._edge, self._linear, self._keys, self._name = edge, linear, keys, name
        self._rows = rows
        self._gradient_bits = floor(BITS - 1 - log2(rows * clip))
        self._step: _Step | None = None

    def activations(self, step: int, values: Floats, weights: WeightFacts) -> Shared:
        """Share a draw's activations, float32 [rows, sources, ...]."""
        self._check_room(len(values))
        of_weights = min(OF_WEIGHTS - frexp(weights.largest)[1], MOST)
        room = _room(self._linear.entering_norms(values) * weights.output_norm) - of_weights
        bits = _bounded(np.minimum(room, SIGNIFICANT - _exponents(values)))
        whole = np.rint(np.asarray(values, np.float64) * power(bits, values.ndim))
        self._step = _Step(step, whole, bits, of_weights)
        return self._shared(Place(step, self._edge, ACTIVATIONS), as_ring(whole), bits, of_weights)

    def errors(self, step: int, errors: Floats, weights: WeightFacts) -> Shared:
        """Share errors, float32 [rows, targets, ...], for the errors of what entered alone."""
        of = self._at(step)
        room = _room(self._linear.leaving_norms(errors) * weights.input_norm) - of.weight_bits
        bits = _bounded(np.minimum(room, OF_ERRORS - _exponents(errors)))
        return self._shared(Place(step, self._edge, ERRORS), encode(errors, bits), bits, of.weight_bits)

    def squares(self, step: int, errors: Floats) -> Doubles:
        """Return the squared norm of the map's gradient for each sample, [rows]."""
        of = self._at(step)
        squares = self._linear.gradient_squares(of.whole, np.asarray(errors, np.float64))
        return squares * np.ldexp(1.0, -2 * of.bits)

    def clipped(self, step: int, errors: Floats, allowed: Doubles, key: bytes) -> Shared:
        """Share errors times clip factors, float32 [rows, targets, ...], rounded at random under a `key` that
        stays here. No sample's gradient then has a norm of more than is `allowed`, [rows].
        """
        of = self._at(step)
        place = Place(step, self._edge, CLIPPED)
        bits = self._gradient_bits - of.bits
        drawn = stream(key, place, errors.shape).astype(np.float64) * 2.0**-BITS
        exact = np.asarray(errors, np.float64) * power(bits, errors.ndim)
        whole = np.floor(exact + drawn)
        limit = allowed * 2.0**self._gradient_bits
        over = np.arange(len(whole))
        for tried in range(ROUNDS):
            norms = np.sqrt(self._linear.gradient_squares(of.whole[over], whole[over]))
            large = norms > limit[over]
            over, norms = over[large], norms[large]
            if not len(over):
                break
            factors = limit[over] / norms * (1 - SHRINK * 2**tried)
            exact[over] *= factors.reshape(-1, *(1 for _ in errors.shape[1:]))
            whole[over] = np.floor(exact[over] + drawn[over])
        whole[over] = 0.0
        self._step = None
        return self._shared(place, as_ring(whole), bits, 0)

    def opened(self, total: Ring) -> Floats:
        """Return the gradient that helpers' parts add up to, float32 [sources, targets, ...]."""
        return decode(total, self._gradient_bits)

    def _at(self, step: int) -> _Step:
        if self._step is None or self._step.number != step:
            raise SharesError(f"{self._name}: errors of step {step} came without its activations")
        return self._step

    def _check_room(self, rows: int) -> None:
        if rows > self._rows:
            raise SharesError(
                f"{self._name}: {rows} samples were drawn, and there is room for {self._rows}; go on from "
                "the last snapshot with another seed, or with a larger training.batch"
            )

    def _shared(self, place: Place, ring: Ring, bits: NDArray[np.int64], weight_bits: int) -> Shared:
        """Share ring elements, filled up with zeros to the room that there is."""
        more = self._rows - len(ring)
        secret = np.concatenate([ring, np.zeros((more, *ring.shape[1:]), np.uint32)])
        all_bits = np.concatenate([bits, np.zeros(more, np.int64)])
        return Shared(place, third_part(secret, self._keys, place), all_bits, weight_bits, secret)


def _room(bounds: Doubles) -> NDArray[np.int64]:
    """Return the fractional bits that both factors of sums of at most `bounds`, [rows], may have together."""
    return np.floor(BITS - 1 - np.log2(np.maximum(bounds * SLACK**2, 2.0**LEAST))).astype(np.int64)


def _exponents(values: Floats) -> NDArray[np.int64]:
    """Return e of each sample whose largest number is below 2^e, [rows]."""
    return np.frexp(np.abs(values).reshape(len(values), -1).max(1, initial=0.0))[1].astype(np.int64)


def _bounded(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.clip(bits, LEAST, MOST)
