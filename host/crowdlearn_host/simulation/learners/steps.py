"""What a chain of dense layers takes a step with: its layers, the samples fed, and room for results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from scipy.linalg.blas import sgemm
from torch import Tensor

from .sparse_inputs import Indices

LINE = 64
"""Bytes of a line of the processor's caches."""


@dataclass(frozen=True)
class Fed:
    """The samples that a dominator feeds in a pass: their `rows` among all samples, in the order in which
    they are fed, and their labels. The mini-batches are parts of both.
    """

    rows: Indices
    labels: Indices
    batches: Sequence[slice]


@dataclass(frozen=True)
class Layer:
    """A dense layer's floats, as views of a vector: `weight` [sources, targets], and `vectors` as kernels.py
    has them.
    """

    weight: Floats
    vectors: Floats


@dataclass(frozen=True)
class Room:
    """Room for what so many rows compute, each [rows, targets] of a layer; `inputs` for what is multiplied of
    the samples. As one mini-batch the rows have these `edges`, int64 [2].
    """

    inputs: Floats
    sums: Sequence[Floats]
    outputs: Sequence[Floats]
    errors: Sequence[Floats]
    edges: Indices
    error_tensors: Sequence[Tensor]

    @classmethod
    def of(cls, rows: int, common: int, widths: Sequence[int]) -> Room:
        """Return room for so many rows, of `common` columns and for layers of these widths."""
        sums, outputs, errors = ([aligned(rows, width) for width in widths] for _ in range(3))
        return cls._around(aligned(rows, common), sums, outputs, errors)

    @classmethod
    def _around(
        cls, inputs: Floats, sums: Sequence[Floats], outputs: Sequence[Floats], errors: Sequence[Floats]
    ) -> Room:
        tensors = [torch.from_numpy(each) for each in errors]
        return cls(inputs, sums, outputs, errors, np.array([0, len(inputs)]), tensors)

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, rows: int) -> Room:
        """Return the first `rows`."""
        kinds = ([each[:rows] for each in kind] for kind in (self.sums, self.outputs, self.errors))
        sums, outputs, errors = kinds
        return self._around(self.inputs[:rows], sums, outputs, errors)


def aligned(*shape: int) -> Floats:
    """Return room, float32 [shape], that begins with a line of the caches: loads cross none, and products do
    not depend on where their arrays happen to lie.
    """
    size, step = prod(shape), LINE // 4
    room = np.empty(size + step, np.float32)
    start = -room.ctypes.data // 4 % step
    return room[start : start + size].reshape(shape)


def add_product(to: Floats, x: Floats, weight: Floats) -> None:
    """Add x @ weight in place.

    `to` is float32 [rows, targets], x float32 [rows, sources], weight float32 [sources, targets].
    """
    if x.size:  # Fortran's order is that of what is transposed
        sgemm(1.0, weight.T, x.T, 1.0, to.T, overwrite_c=1)


def move_by_product(to: Floats, x: Floats, errors: Floats, by: float) -> None:
    """Add x.T @ errors, times `by`, to weights in place: they are written once.

    `to` is float32 [sources, targets], x float32 [rows, sources], errors float32 [rows, targets].
    """
    if to.size:
        sgemm(by, errors.T, x.T, 1.0, to.T, trans_b=1, overwrite_c=1)
