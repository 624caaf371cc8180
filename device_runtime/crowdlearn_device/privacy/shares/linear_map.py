"""Linear maps over the ring: dense, convolution and depthwise convolution.

Weights have the layout that pieces keep: source neurons first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from crowdlearn_device.protocol.frames import Floats

from .ring import Doubles, Integers, Ring, RingProducts

T = TypeVar("T", bound=np.generic)


class LinearMap(ABC):
    """A linear map from activations [B, sources, ...] to sums [B, targets, ...], and its derivatives."""

    @abstractmethod
    def forward(self, products: RingProducts, values: Ring, weights: Integers) -> Ring:
        """Return the sums of ring elements."""

    @abstractmethod
    def backward(self, products: RingProducts, errors: Ring, weights: Integers) -> Ring:
        """Return the transposed map of errors [B, targets, ...], like activations."""

    @abstractmethod
    def gradient(self, products: RingProducts, values: Ring, errors: Ring) -> Ring:
        """Return the sum over the batch of errors times activations, like the weights."""

    @abstractmethod
    def source_rows(self, values: NDArray[T]) -> NDArray[T]:
        """Return what enters each output, a row for all targets of a place: [rows, K]."""

    @abstractmethod
    def target_rows(self, sums: NDArray[T]) -> NDArray[T]:
        """Return sums, or errors of them, with a row for each place: [rows, targets]."""

    def norms(self, values: Floats, errors: Floats | None) -> tuple[float, float]:
        """Return the largest norms of what enters one output and, of errors, of what leaves one input.

        Arrays are float32 [B, ...].
        """
        leaving = 0.0 if errors is None else float(self.leaving_norms(errors).max(initial=0.0))
        return float(self.entering_norms(values).max(initial=0.0)), leaving

    @abstractmethod
    def entering_norms(self, values: Floats) -> Doubles:
        """Return each sample's largest norm of what enters one output, [B]. Values are float32 [B, ...]."""

    @abstractmethod
    def leaving_norms(self, errors: Floats) -> Doubles:
        """Return each sample's largest norm of errors of what leaves one input, [B]. Errors are float32
        [B, ...].
        """

    @abstractmethod
    def gradient_squares(self, values: Doubles, errors: Doubles) -> Doubles:
        """Return the squared norm of each sample's gradient, [B]. Arrays are float64 [B, ...]."""

    @abstractmethod
    def column_norm(self, values: Floats) -> float:
        """Return the largest norm of one source value over a mini-batch. Values are float32 [B, ...]."""

    @abstractmethod
    def weight_norms(self, weights: Floats) -> tuple[float, float]:
        """Return the largest norms of the weights of one output and of one input.

        Weights are float32 [sources, targets, ...].
        """

    @abstractmethod
    def gradient_bound(self, values: Floats, errors: Floats) -> float:
        """Return a number that no gradient exceeds. Arrays are float32 [B, ...]."""


@dataclass(frozen=True)
class Dense(LinearMap):
    """A dense layer; weights are [sources, ..., targets]."""

    def forward(self, products: RingProducts, values: Ring, weights: Integers) -> Ring:
        return products.with_weights(_rows(values), _columns(weights))

    def backward(self, products: RingProducts, errors: Ring, weights: Integers) -> Ring:
        flat = products.with_weights(errors, np.ascontiguousarray(_columns(weights).T))
        return flat.reshape(len(errors), *weights.shape[:-1])

    def gradient(self, products: RingProducts, values: Ring, errors: Ring) -> Ring:
        flat = products.of_shares(_rows(values), errors)
        return flat.reshape(*values.shape[1:], errors.shape[1])

    def source_rows(self, values: NDArray[T]) -> NDArray[T]:
        return _rows(values)

    def target_rows(self, sums: NDArray[T]) -> NDArray[T]:
        return _rows(sums)

    def entering_norms(self, values: Floats) -> Doubles:
        return np.sqrt(_squares(_rows(values)))

    def leaving_norms(self, errors: Floats) -> Doubles:
        return np.sqrt(_squares(errors))

    def gradient_squares(self, values: Doubles, errors: Doubles) -> Doubles:
        return _squares(_rows(values)) * _squares(errors)

    def weight_norms(self, weights: Floats) -> tuple[float, float]:
        return _largest(_columns(weights), 0), _largest(_columns(weights), 1)

    def column_norm(self, values: Floats) -> float:
        return _largest(_rows(values), 0)

    def gradient_bound(self, values: Floats, errors: Floats) -> float:
        return self.column_norm(values) * _largest(errors, 0)


@dataclass(frozen=True)
class Convolution(LinearMap):
    """A convolution of maps [B, channels, H, W]; weights are [sources, targets, height, width]."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    source: tuple[int, int]
    """Height and width of a source map."""

    @property
    def target(self) -> tuple[int, int]:
        """Return height and width of a target map."""
        shape = [
            (size + 2 * pad - gap * (k - 1) - 1) // step + 1
            for size, pad, gap, k, step in zip(
                self.source, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        ]
        return shape[0], shape[1]

    def forward(self, products: RingProducts, values: Ring, weights: Integers) -> Ring:
        table = weights.transpose(0, 2, 3, 1).reshape(-1, weights.shape[1])
        return _as_maps(products.with_weights(self._gathered(values), table), len(values), self.target)

    def backward(self, products: RingProducts, errors: Ring, weights: Integers) -> Ring:
        table = np.ascontiguousarray(weights.transpose(1, 0, 2, 3).reshape(weights.shape[1], -1))
        columns = products.with_weights(_as_rows(errors), table)
        return self._scattered(columns, len(errors), weights.shape[0])

    def gradient(self, products: RingProducts, values: Ring, errors: Ring) -> Ring:
        flat = products.of_shares(self._gathered(values), _as_rows(errors))
        return flat.reshape(values.shape[1], *self.kernel, errors.shape[1]).transpose(0, 3, 1, 2).copy()

    def source_rows(self, values: NDArray[T]) -> NDArray[T]:
        return self._gathered(values)

    def target_rows(self, sums: NDArray[T]) -> NDArray[T]:
        return _as_rows(sums)

    def scattered(self, columns: NDArray[T], count: int) -> NDArray[T]:
        """Add columns [rows, channels * kernel] where they were gathered: [count, channels, H, W]."""
        return self._scattered(columns, count, columns.shape[1] // prod(self.kernel))

    def entering_norms(self, values: Floats) -> Doubles:
        entering = self._gathered((values.astype(np.float64) ** 2).sum(1, keepdims=True)).sum(1)
        return _most(entering.reshape(len(values), -1))

    def leaving_norms(self, errors: Floats) -> Doubles:
        squares = (errors.astype(np.float64) ** 2).sum(1).reshape(-1, 1)
        spread = self._scattered(np.repeat(squares, prod(self.kernel), axis=1), len(errors), 1)
        return _most(spread.reshape(len(errors), -1))

    def gradient_squares(self, values: Doubles, errors: Doubles) -> Doubles:
        found = np.empty(len(values))
        for row in range(len(values)):  # one by one: what is gathered is larger than the maps
            entered, left = self._gathered(values[row : row + 1]), _as_rows(errors[row : row + 1])
            found[row] = np.square(entered.T @ left).sum()
        return found

    def weight_norms(self, weights: Floats) -> tuple[float, float]:
        squares = weights.astype(np.float64) ** 2
        return float(squares.sum((0, 2, 3)).max()) ** 0.5, float(squares.sum((1, 2, 3)).max()) ** 0.5

    def column_norm(self, values: Floats) -> float:
        return _largest(values, (0, 2, 3))

    def gradient_bound(self, values: Floats, errors: Floats) -> float:
        return self.column_norm(values) * _largest(errors, (0, 2, 3))

    def _gathered(self, maps: NDArray[T]) -> NDArray[T]:
        """Return what enters each position of each target map, [B * positions, channels * kernel]."""
        count, channels = maps.shape[:2]
        found = np.empty((count, *self.target, channels, *self.kernel), maps.dtype)
        padded = np.pad(maps, [(0, 0), (0, 0), *((pad, pad) for pad in self.padding)])
        for i, j, rows, columns in self._taps():
            found[:, :, :, :, i, j] = padded[:, :, rows, columns].transpose(0, 2, 3, 1)
        return found.reshape(count * prod(self.target), -1)

    def _scattered(self, columns: NDArray[T], count: int, channels: int) -> NDArray[T]:
        """Return the transpose of `_gathered`: columns added where they were gathered."""
        shaped = columns.reshape(count, *self.target, channels, *self.kernel)
        height, width = (size + 2 * pad for size, pad in zip(self.source, self.padding, strict=True))
        found = np.zeros((count, channels, height, width), columns.dtype)
        for i, j, rows, across in self._taps():
            found[:, :, rows, across] += shaped[:, :, :, :, i, j].transpose(0, 3, 1, 2)
        (top, left), (high, wide) = self.padding, self.source
        return np.ascontiguousarray(found[:, :, top : top + high, left : left + wide])

    def _taps(self) -> list[tuple[int, int, slice, slice]]:
        """Return row and column in the kernel, and the source positions that it meets."""
        (high, wide), (down, across) = self.target, self.stride
        return [
            (i, j, slice(y, y + down * (high - 1) + 1, down), slice(x, x + across * (wide - 1) + 1, across))
            for i in range(self.kernel[0])
            for j in range(self.kernel[1])
            for y, x in [(i * self.dilation[0], j * self.dilation[1])]
        ]


@dataclass(frozen=True)
class Depthwise(Convolution):
    """A convolution of each map with a kernel of its own; weights are [channels, 1, height, width].

    A sum has few terms, so uint32's own arithmetic, which is modulo 2^32, does it.
    """

    def forward(self, products: RingProducts, values: Ring, weights: Integers) -> Ring:
        sums = (self._windows(values) * _kernels(weights)[:, None, None]).sum((4, 5), dtype=np.uint32)
        return np.ascontiguousarray(sums)

    def backward(self, products: RingProducts, errors: Ring, weights: Integers) -> Ring:
        columns = errors.transpose(0, 2, 3, 1)[..., None, None] * _kernels(weights)
        return self._scattered(columns, len(errors), errors.shape[1])

    def gradient(self, products: RingProducts, values: Ring, errors: Ring) -> Ring:
        taken = self._windows(values) * errors[..., None, None]
        return taken.sum((0, 2, 3), dtype=np.uint32)[:, None]

    def entering_norms(self, values: Floats) -> Doubles:
        entering = (self._windows(values).astype(np.float64) ** 2).sum((4, 5))
        return _most(entering.reshape(len(values), -1))

    def leaving_norms(self, errors: Floats) -> Doubles:
        squares = np.repeat(
            (errors.astype(np.float64) ** 2).transpose(0, 2, 3, 1).reshape(-1, 1), prod(self.kernel), 1
        )
        spread = self._scattered(squares, len(errors), errors.shape[1])
        return _most(spread.reshape(len(errors), -1))

    def gradient_squares(self, values: Doubles, errors: Doubles) -> Doubles:
        each = (self._windows(values) * errors[..., None, None]).sum((2, 3))
        return np.square(each).sum((1, 2, 3))

    def weight_norms(self, weights: Floats) -> tuple[float, float]:
        found = float((weights.astype(np.float64) ** 2).sum((1, 2, 3)).max()) ** 0.5
        return found, found

    def _windows(self, maps: NDArray[T]) -> NDArray[T]:
        """Return what enters each position, [B, channels, H, W, *kernel]."""
        shaped = self._gathered(maps).reshape(len(maps), *self.target, maps.shape[1], *self.kernel)
        return shaped.transpose(0, 3, 1, 2, 4, 5)


def linear_map(kind: str, fields: Mapping[str, Any], source: tuple[int, ...]) -> LinearMap:
    """Return the map of an edge's kind and attributes; `source` is the shape of a source neuron's output.

    Raises ValueError if there is none of this kind.
    """
    if kind == "dense":
        return Dense()
    maps = {"conv": Convolution, "depthwise": Depthwise}
    if kind not in maps or len(source) != 2:
        raise ValueError(f"no linear map of kind {kind} of maps {source}")
    pairs = {name: tuple(fields[name]) for name in ("kernel", "stride", "padding", "dilation")}
    return maps[kind](**pairs, source=(source[0], source[1]))


def _kernels(weights: Integers) -> Ring:
    """Return a depthwise convolution's weights as ring elements [channels, height, width]."""
    return weights[:, 0].astype(np.uint32)


def _rows(values: NDArray[T]) -> NDArray[T]:
    return values.reshape(len(values), -1)


def _columns(weights: NDArray[T]) -> NDArray[T]:
    return weights.reshape(-1, weights.shape[-1])


def _as_rows(maps: NDArray[T]) -> NDArray[T]:
    """Return maps [B, channels, H, W] as rows [B * H * W, channels]."""
    return np.ascontiguousarray(maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1]))


def _as_maps(rows: NDArray[T], count: int, shape: tuple[int, int]) -> NDArray[T]:
    return np.ascontiguousarray(rows.reshape(count, *shape, -1).transpose(0, 3, 1, 2))


def _squares(values: NDArray[np.floating]) -> Doubles:
    """Return the squared norm of each row of [B, n]."""
    return np.square(values.astype(np.float64)).sum(1)


def _most(squares: Doubles) -> Doubles:
    """Return the root of each row's largest number, of [B, n]."""
    return np.sqrt(squares.max(1, initial=0.0))


def _largest(values: NDArray[np.floating], axes: int | tuple[int, ...]) -> float:
    """Return the largest Euclidean norm along `axes`."""
    return float((values.astype(np.float64) ** 2).sum(axes).max(initial=0.0)) ** 0.5
