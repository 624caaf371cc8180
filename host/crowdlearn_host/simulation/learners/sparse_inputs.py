"""Inputs taken apart: columns to be multiplied, and of those that are mostly zero a list of what is not.

Four fifths of a digit's pixels are zero, many of them in nearly all digits. Any division into common and rare
columns gives the same sums, in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Places = NDArray[np.int32]
ALIGNED = 16
"""Common columns are a multiple of this: products are fastest so."""
LOOKED_AT = 4096
"""Samples by which columns are divided."""
RARE = 0.3
"""The most samples of a rare column that are not zero, as a share: above, a product takes less time."""


@dataclass(frozen=True)
class SparseInputs:
    """N samples: their `common` columns [N, count], and, from starts[i] to starts[i + 1], the rare `columns`
    in which sample i is not zero and its `values` there.
    """

    common: Floats
    starts: Indices
    columns: Places
    values: Floats

    def __len__(self) -> int:
        return len(self.common)


@dataclass(frozen=True)
class Columns:
    """All columns of the inputs, the common ones, `count` of them, first."""

    order: Indices
    count: int

    @classmethod
    def of(cls, inputs: Floats) -> Columns:
        """Return the division of `inputs` [N, sources], in which nothing is rare where that would save
        little.
        """
        share = np.count_nonzero(inputs[:LOOKED_AT], axis=0) / len(inputs[:LOOKED_AT])
        count = -(-int((share > RARE).sum()) // ALIGNED) * ALIGNED
        if count > 0.8 * len(share):
            return cls(np.arange(len(share)), len(share))
        return cls(np.argsort(-share, kind="stable"), count)

    @property
    def all_common(self) -> bool:
        return self.count == len(self.order)


@dataclass(frozen=True)
class TakenApart:
    """The training and the test samples of a run, divided by the same columns."""

    columns: Columns
    train: SparseInputs
    test: SparseInputs
