"""The arithmetic of one linear map on shares: the dominator's side, and a helper's.

Both are free of messages: the caller carries what they return. Weights are the helpers' own, in the clear.
Products of a gradient's shares need no message between helpers. What is opened to them is the sum over a
mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crowdlearn_device.errors import DeviceError
from crowdlearn_device.protocol.frames import Floats

from .checks import check_of, others
from .fixed_point import Bits, WeightFacts, bits_forward, bits_of_errors, decode, encode, encode_weights
from .linear_map import Dense, Depthwise, LinearMap
from .replicated import (
    ACTIVATIONS,
    CLIPPED,
    ERRORS,
    GRADIENTS,
    HELPERS,
    Keys,
    Pair,
    Place,
    pair_of,
    role_of,
    third_part,
    zero_mask,
)
from .ring import Integers, Ring, RingProducts

_Product = Callable[[RingProducts, Ring, Integers], Ring]


class SharesError(DeviceError):
    """A share that does not fit what is due."""


@dataclass(frozen=True)
class Shared:
    """One array on its way to a triple: part 2, uint32, for roles 1 and 2; the rest for all.

    `bits` are the fractional bits of its values, of all or of each sample's, `weight_bits` those of the
    weights that it meets.
    """

    place: Place
    third: Ring
    bits: Bits
    weight_bits: int
    secret: Ring
    """The values themselves as ring elements, which stay with the dominator."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.third.shape


@dataclass(frozen=True)
class Received:
    """One shared array as a helper gets it: part 2 is None for role 0. `bits` are 0 if each sample has its
    own.
    """

    place: Place
    third: Ring | None
    shape: tuple[int, ...]
    bits: int
    weight_bits: int

    @classmethod
    def at(cls, position: int, shared: Shared) -> Received:
        """Return what goes to the helper at a position."""
        third = shared.third if role_of(position, shared.place.step) else None
        bits = shared.bits if isinstance(shared.bits, int) else 0
        return cls(shared.place, third, shared.shape, bits, shared.weight_bits)


class Sharer:
    """The dominator's side of one linear map."""

    def __init__(self, edge: int, linear: LinearMap, keys: Keys, name: str) -> None:
        self._edge, self._linear, self._keys, self._name = edge, linear, keys, name
        self._values: Floats | None = None
        self._bits = (0, 0)
        self.entered: tuple[int, ...] = ()
        """Shape of the activations that were shared last."""

    def activations(self, step: int, values: Floats, weights: WeightFacts) -> Shared:
        """Share a mini-batch's activations, float32 [B, sources, ...]. Raises RingError if no bits remain."""
        entering, _ = self._linear.norms(values, None)
        column, largest = self._linear.column_norm(values), float(np.abs(values).max(initial=0.0))
        self._bits = bits_forward(largest, entering, column, weights, self._name)
        self._values, self.entered = values, values.shape
        return self._shared(Place(step, self._edge, ACTIVATIONS), values, self._bits[0])

    def errors(self, step: int, errors: Floats, weights: WeightFacts) -> Shared:
        """Share errors, float32 [B, targets, ...], of the mini-batch whose activations were shared last.

        Raises RingError if no bits remain for them.
        """
        if self._values is None:
            raise SharesError(f"{self._name}: errors came before activations")
        of_values, of_weights = self._bits
        _, leaving = self._linear.norms(self._values, errors)
        sums = (
            (leaving * weights.input_norm, of_weights),
            (self._linear.gradient_bound(self._values, errors), of_values),
        )
        bits = bits_of_errors(float(np.abs(errors).max(initial=0.0)), sums, self._name)
        self._values = None
        return self._shared(Place(step, self._edge, ERRORS), errors, bits)

    def _shared(self, place: Place, values: Floats, bits: int) -> Shared:
        secret = encode(values, bits)
        return Shared(place, third_part(secret, self._keys, place), bits, self._bits[1], secret)


def joined(answers: tuple[Ring, Ring], shared: Shared) -> Floats:
    """Return the product that two answers give, float32. It is float32 [B, targets, ...]."""
    return decode(answers[0] + answers[1], shared.bits + shared.weight_bits)


def facts_of(linear: LinearMap, weights: Floats) -> WeightFacts:
    """Return the facts that a helper sends of its weights, float32 with source neurons first.

    Weights are float32 [sources, targets, ...].
    """
    return WeightFacts(float(np.abs(weights).max(initial=0.0)), *linear.weight_norms(weights))


class Helper:
    """A helper's side of one linear map, at a position of its triple.

    `own` are its keys with the helpers before and after it.
    """

    def __init__(
        self, edge: int, linear: LinearMap, position: int, own: tuple[bytes, bytes], products: RingProducts
    ) -> None:
        self._edge, self._linear, self._position, self._own = edge, linear, position, own
        self._products, self._check = products, check_of(linear)
        self._pairs: dict[int, tuple[Pair, int]] = {}
        self._weights = np.zeros(0, np.float32)
        self.facts = WeightFacts(0.0, 0.0, 0.0)

    def take_weights(self, weights: Floats) -> None:
        """Take the map's weights, float32 with source neurons first, for the mini-batches that follow.

        Weights are float32 [sources, targets, ...].
        """
        self.facts = facts_of(self._linear, weights)
        self._weights = weights

    def forward(self, received: Received) -> Ring | None:
        """Keep shares of activations; return its part of the sums, if its role answers."""
        return self._product(received, self._linear.forward)

    def backward(self, received: Received) -> Ring | None:
        """Keep shares of errors; return its part of the errors of what entered, if its role answers."""
        return self._product(received, self._linear.backward)

    def keep(self, received: Received) -> None:
        """Keep shares without an answer: errors of an input layer go no further back."""
        place = received.place
        pair = pair_of(self._position, self._own, received.third, place, received.shape)
        self._pairs[place.kind] = pair, received.bits

    def _product(self, received: Received, product: _Product) -> Ring | None:
        self.keep(received)
        pair, _ = self._pairs[received.place.kind]
        role = role_of(self._position, received.place.step)
        if role == 2:
            return None
        weights = encode_weights(self._weights, received.weight_bits)
        return product(self._products, pair.first + pair.second if role == 0 else pair.second, weights)

    def weights_seen(self, received: Received, key: bytes) -> Ring:
        """Return how the weights look under this helper's own lots, by which the others' products with them
        are checked (checks.py).
        """
        weights = encode_weights(self._weights, received.weight_bits)
        forward = received.place.kind == ACTIVATIONS
        rows = self._targets if forward else self._sources
        drawn = self._check.lots(key, received.place, rows)
        return self._check.weights_seen(weights, drawn, forward=forward)

    @property
    def _targets(self) -> int:
        shape: tuple[int, ...] = self._weights.shape
        if isinstance(self._linear, Dense):
            return shape[-1]
        return shape[0] if isinstance(self._linear, Depthwise) else shape[1]

    @property
    def _sources(self) -> int:
        shape: tuple[int, ...] = self._weights.shape
        return int(np.prod(shape[:-1])) if isinstance(self._linear, Dense) else shape[0]

    def parts_seen(self, parts: tuple[Ring, ...], key: bytes, step: int) -> Ring:
        """Return how the opened gradient and the other two helpers' parts of it, the next one's first, look
        under this helper's own lots: uint32 [3, ...].
        """
        drawn = self._check.lots(key, Place(step, self._edge, GRADIENTS), self._targets)
        shown = [parts[0] + parts[1] + parts[2], *(parts[other] for other in others(self._position))]
        return np.stack([self._check.gradient_seen(each, drawn) for each in shown])

    def held(self, *, errors: bool) -> Pair:
        """Return the parts that it holds of the mini-batch's activations, or errors."""
        return self._pairs[ERRORS if errors else ACTIVATIONS][0]

    def gradient(self, step: int) -> Ring:
        """Return its masked part of the weights' gradient, summed over the mini-batch, like the weights: of
        clipped errors if it holds any.
        """
        (a, _), (d, _) = self._pairs[ACTIVATIONS], self._pairs[CLIPPED if CLIPPED in self._pairs else ERRORS]
        role, of = role_of(self._position, step), self._products
        if role == 0:
            part = self._linear.gradient(of, a.first + a.second, d.first + d.second)
        elif role == 1:
            part = self._linear.gradient(of, a.first + a.second, d.second)
            part += self._linear.gradient(of, a.second, d.first)
        else:
            part = self._linear.gradient(of, a.second, d.first)
            part += self._linear.gradient(of, a.first, d.second)
        return part + zero_mask(self._own, Place(step, self._edge, GRADIENTS), part.shape)

    def opened(self, parts: tuple[Ring, ...]) -> Floats:
        """Return the gradient that all three masked parts give, float32; the shares are forgotten.

        It is float32 [sources, targets, ...].
        """
        if len(parts) != HELPERS:
            raise SharesError(f"{len(parts)} parts of a gradient; three were due")
        bits = self._pairs[ACTIVATIONS][1] + self._pairs[ERRORS][1]
        self.forget()
        return decode(parts[0] + parts[1] + parts[2], bits)

    def forget(self) -> None:
        """Forget the mini-batch's shares."""
        self._pairs.clear()
