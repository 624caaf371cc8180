"""What a chain of dense layers takes a step with: its layers, the samples fed, and room for results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from crowdlearn_device.protocol.frames import Floats

from .sparse_inputs import Indices, SparseInputs

Rare = tuple[Indices, Indices, Indices, Floats]
"""Rows of a mini-batch, and the lists of values in its rare columns."""


@dataclass(frozen=True)
class Fed:
    """The samples that a dominator feeds in a pass: its samples, their `rows` in the order in which they are
    fed, their labels in that order, and the mini-batches as parts of the rows.
    """

    samples: SparseInputs
    rows: Indices
    labels: Indices
    batches: Sequence[slice]

    def begun(self, most: int) -> Fed:
        """Return the first mini-batches, `most` of them."""
        batches = self.batches[:most]
        stop = batches[-1].stop if batches else 0
        return replace(self, rows=self.rows[:stop], labels=self.labels[:stop], batches=batches)


@dataclass(frozen=True)
class Layer:
    """A dense layer's floats, as views of a vector: `weight` [sources, targets], and `vectors` as kernels.py
    has them.
    """

    weight: Floats
    vectors: Floats


@dataclass(frozen=True)
class Step:
    """The layers that a mini-batch of one size moves, and room for what it computes, each [rows, targets] of
    a layer.

    `totals` take |gradient|, and are empty if none is summed. Errors are those of a loss summed over the
    mini-batch: `rate` and `share` divide by its samples.
    """

    rate: np.float32
    share: np.float32
    totals: list[Layer]
    sums: list[Floats]
    outputs: list[Floats]
    errors: list[Floats]
