"""Checks of what helpers compute, at a small part of its cost (Freivalds 1979).

A product Y = X W is right if Y R = X (W R) for random columns R that were secret from the computer of Y. A
helper that computes none of a product sends W R, under lots that only it and the dominator have. Of a
gradient it sends the products of its lots with the other two helpers' parts, and with the opened sum. A wrong
number goes unnoticed with probability 2^-32 a column if it is odd, and 1/2 if it is the ring's half.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod

import numpy as np

from .linear_map import Convolution, Depthwise, LinearMap
from .replicated import (
    ACTIVATIONS,
    CLIPPED,
    ERRORS,
    GRADIENTS,
    HELPERS,
    Keys,
    Place,
    own_keys,
    pair_of,
    role_of,
    stream,
    zero_mask,
)
from .ring import Integers, Ring, RingProducts

COLUMNS = 4
"""Random columns of a check."""
Shape = tuple[int, ...]


class MapCheck(ABC):
    """The check of one linear map. Lots are uint32 [targets or sources, COLUMNS]; rows are places.

    `forward` tells whether a product is that of activations with the weights, else of errors with the
    transposed map. Arrays of the ring are uint32.
    """

    def __init__(self, linear: LinearMap) -> None:
        self.linear, self.products = linear, RingProducts()

    def lots(self, key: bytes, place: Place, rows: int) -> Ring:
        """Return the random columns of a check, uint32 [rows, COLUMNS], under a helper's own key."""
        return stream(key, place, (rows, COLUMNS))

    @abstractmethod
    def weights_shape(self, entered: Shape, targets: int, *, forward: bool) -> Shape:
        """Return the shape of `weights_seen`, by that of a batch's activations."""

    @abstractmethod
    def weights_seen(self, weights: Integers, drawn: Ring, *, forward: bool) -> Ring:
        """Return how weights, int32 with source neurons first, look under lots."""

    @abstractmethod
    def answer_seen(self, answer: Ring, drawn: Ring, *, forward: bool) -> Ring:
        """Return how a product looks under lots: [rows, COLUMNS]."""

    @abstractmethod
    def answer_due(self, secret: Ring, weights: Ring, *, forward: bool) -> Ring:
        """Return how the product of a shared array has to look, by what is seen of the weights."""

    def gradient_shape(self, entered: Shape) -> Shape:
        """Return the shape of `gradient_seen`."""
        return prod(entered[1:]), COLUMNS

    @abstractmethod
    def gradient_seen(self, gradient: Ring, drawn: Ring) -> Ring:
        """Return how a gradient, like the weights, looks under lots [targets, COLUMNS]."""

    def gradient_due(self, values: Ring, errors: Ring, drawn: Ring) -> Ring:
        """Return how the gradient of activations and errors has to look under lots."""
        seen = self.products.of_columns(self.linear.target_rows(errors), drawn)
        return self.products.of_shares(self.linear.source_rows(values), seen)


class DenseCheck(MapCheck):
    """The check of a dense map; weights are [sources, ..., targets]."""

    def weights_shape(self, entered: Shape, targets: int, *, forward: bool) -> Shape:
        return (prod(entered[1:]) if forward else targets), COLUMNS

    def weights_seen(self, weights: Integers, drawn: Ring, *, forward: bool) -> Ring:
        table = _table(weights.astype(np.uint32))
        return self.products.of_columns(table if forward else table.T, drawn)

    def answer_seen(self, answer: Ring, drawn: Ring, *, forward: bool) -> Ring:
        return self.products.of_columns(answer.reshape(len(answer), -1), drawn)

    def answer_due(self, secret: Ring, weights: Ring, *, forward: bool) -> Ring:
        return self.products.of_columns(secret.reshape(len(secret), -1), weights)

    def gradient_seen(self, gradient: Ring, drawn: Ring) -> Ring:
        return self.products.of_columns(_table(gradient), drawn)


class ConvolutionCheck(MapCheck):
    """The check of a convolution; weights are [sources, targets, height, width]."""

    linear: Convolution

    def weights_shape(self, entered: Shape, targets: int, *, forward: bool) -> Shape:
        taps = prod(self.linear.kernel)
        return (entered[1] * taps, COLUMNS) if forward else (targets, COLUMNS * taps)

    def weights_seen(self, weights: Integers, drawn: Ring, *, forward: bool) -> Ring:
        w = weights.astype(np.uint32)
        if forward:
            return self.products.of_columns(w.transpose(0, 2, 3, 1).reshape(-1, w.shape[1]), drawn)
        seen = self.products.of_columns(w.transpose(1, 2, 3, 0).reshape(-1, w.shape[0]), drawn)
        return _kernels_last(seen, w.shape[1])

    def answer_seen(self, answer: Ring, drawn: Ring, *, forward: bool) -> Ring:
        return self.products.of_columns(self.linear.target_rows(answer), drawn)

    def answer_due(self, secret: Ring, weights: Ring, *, forward: bool) -> Ring:
        if forward:
            return self.products.of_columns(self.linear.source_rows(secret), weights)
        columns = self.products.of_columns(self.linear.target_rows(secret), weights)
        return self.linear.target_rows(self.linear.scattered(columns, len(secret)))

    def gradient_shape(self, entered: Shape) -> Shape:
        return entered[1] * prod(self.linear.kernel), COLUMNS

    def gradient_seen(self, gradient: Ring, drawn: Ring) -> Ring:
        table = gradient.transpose(0, 2, 3, 1).reshape(-1, gradient.shape[1])
        return self.products.of_columns(table, drawn)


class DepthwiseCheck(ConvolutionCheck):
    """The check of a convolution of each map alone; weights are [channels, 1, height, width].

    Its gradient is small and compared as a whole.
    """

    linear: Depthwise

    def weights_seen(self, weights: Integers, drawn: Ring, *, forward: bool) -> Ring:
        taps = weights.astype(np.uint32).reshape(len(weights), -1, 1)
        seen = taps * drawn[:, None, :]  # [channels, taps, COLUMNS]
        return (
            seen.reshape(-1, COLUMNS) if forward else _kernels_last(seen.reshape(-1, COLUMNS), len(weights))
        )

    def gradient_shape(self, entered: Shape) -> Shape:
        return entered[1] * prod(self.linear.kernel), 1

    def gradient_seen(self, gradient: Ring, drawn: Ring) -> Ring:
        return gradient.reshape(-1, 1)

    def gradient_due(self, values: Ring, errors: Ring, drawn: Ring) -> Ring:
        return self.linear.gradient(self.products, values, errors).reshape(-1, 1)


def check_of(linear: LinearMap) -> MapCheck:
    """Return the check of a map."""
    if isinstance(linear, Depthwise):
        return DepthwiseCheck(linear)
    return ConvolutionCheck(linear) if isinstance(linear, Convolution) else DenseCheck(linear)


def part_due(
    check: MapCheck,
    position: int,
    keys: Keys,
    thirds: Mapping[int, Ring],
    place: Place,
    weights: Shape,
    drawn: Ring,
) -> Ring:
    """Return how a helper's masked part of a gradient, of the shape of the `weights`, has to look under lots.

    `thirds` are the parts that travelled, uint32 of activations and of errors, or clipped ones, by kind.
    """
    own, role = own_keys(keys, position), role_of(position, place.step)
    a, d = (
        pair_of(
            position,
            own,
            thirds[kind] if role else None,
            Place(place.step, place.edge, kind),
            thirds[kind].shape,
        )
        for kind in (ACTIVATIONS, CLIPPED if CLIPPED in thirds else ERRORS)
    )
    pairs = {
        0: [(a.first + a.second, d.first + d.second)],
        1: [(a.first + a.second, d.second), (a.second, d.first)],
        2: [(a.second, d.first), (a.first, d.second)],
    }[role]
    total = check.gradient_seen(zero_mask(own, Place(place.step, place.edge, GRADIENTS), weights), drawn)
    for values, errors in pairs:
        total = total + check.gradient_due(values, errors, drawn)
    return total


def others(position: int) -> tuple[int, int]:
    """Return the positions of the other two helpers, the next one first."""
    return (position + 1) % HELPERS, (position + 2) % HELPERS


def _table(weights: Ring) -> Ring:
    return weights.reshape(-1, weights.shape[-1])


def _kernels_last(seen: Ring, targets: int) -> Ring:
    """Return [targets * taps, COLUMNS] as [targets, COLUMNS * taps]."""
    return np.ascontiguousarray(seen.reshape(targets, -1, COLUMNS).transpose(0, 2, 1).reshape(targets, -1))
