"""What a dominator feeds a dense chain in a pass: of sources that are mostly zero, what is not, in lists.

A list takes time by its length, a product of matrices by its area.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

OFTEN = 0.3
"""Sources that are not zero in a larger part of the samples take less time in a matrix."""
ALIGNED = 16
"""Sources in a matrix are a multiple of this: products are fastest so."""
TURNED = 128
"""Mini-batches whose lists are turned at a time: each takes room for all sources that are listed."""

sum_bags = torch.ops.aten._embedding_bag_forward_only.default


@dataclass(frozen=True)
class Bags:
    """Sums of rows of a table: bag i has rows `indices[offsets[i]:offsets[i + 1]]`, each times its value."""

    indices: Tensor
    offsets: Tensor
    values: Tensor

    def of(self, table: Tensor) -> Tensor:
        """The bags' sums [bags, columns] of a table [rows, columns]."""
        return sum_bags(table, self.indices, self.offsets, False, 0, False, self.values, True)[0]


@dataclass(frozen=True)
class Listed:
    """A mini-batch's inputs of the sources that are listed: bags of sources, and bags of samples."""

    by_sample: Bags
    by_source: Bags


@dataclass(frozen=True)
class Fed:
    """What a dominator feeds in a pass: inputs [N, sources], int64 labels [N], and its mini-batches, each the
    samples that follow those of the one before.

    `sources`, int64, are the positions of the sources that are not zero throughout: those of `inputs`, then
    those of the mini-batches' lists (see `Sources`). None where `inputs` has all.
    """

    inputs: Tensor
    labels: Tensor
    batches: Sequence[slice]
    sources: Tensor | None = None
    listed: Iterable[Listed] | None = None


class Sources:
    """A device's sources, of its inputs [N, sources]: those not zero in more than the part `often_from` of
    the samples are fed as a matrix, others as lists, and those that are zero throughout not at all.
    """

    def __init__(self, inputs: NDArray[np.float32], often_from: float) -> None:
        there = np.count_nonzero(inputs, axis=0)
        often = np.count_nonzero(there > often_from * len(inputs))
        often += -often % ALIGNED
        by_count = np.argsort(-there, kind="stable")
        seldom = np.sort(by_count[often : np.count_nonzero(there)])
        self._often = torch.from_numpy(np.sort(by_count[:often]))
        self._fed = torch.cat((self._often, torch.from_numpy(seldom)))
        self._listed = csr_array(inputs[:, seldom])

    @property
    def often(self) -> int:
        """How many sources are fed as a matrix."""
        return len(self._often)

    def fed(self, whole: Fed, order: NDArray[np.int64]) -> Fed:
        """A pass that feeds all sources of the samples in this order, as these sources are fed."""
        if len(self._often) == whole.inputs.shape[1]:
            return whole
        often = whole.inputs.index_select(1, self._often)
        listed = self._lists(order, whole.batches) if self._listed.shape[1] else None
        return Fed(often, whole.labels, whole.batches, self._fed, listed)

    def _lists(self, order: NDArray[np.int64], batches: Sequence[slice]) -> Iterator[Listed]:
        for first in range(0, len(batches), TURNED):
            yield from self._turned(order, batches[first : first + TURNED])

    def _turned(self, order: NDArray[np.int64], batches: Sequence[slice]) -> Iterator[Listed]:
        """The sources of every mini-batch are columns of their own, so that all are turned at once."""
        width, start = self._listed.shape[1], batches[0].start
        listed = self._listed[order[start : batches[-1].stop]]
        edges = listed.indptr[[0, *(batch.stop - start for batch in batches)]]
        columns = np.repeat(np.arange(len(batches), dtype=np.int32) * width, np.diff(edges)) + listed.indices
        shape = listed.shape[0], len(batches) * width
        turned = csr_array((listed.data, columns, listed.indptr), shape=shape).tocsc()
        for number, (batch, *within) in enumerate(zip(batches, edges[:-1], edges[1:], strict=True)):
            own, first = slice(*within), batch.start - start
            by_sample = listed.indptr[first : batch.stop - start + 1] - own.start
            by_source = turned.indptr[number * width : (number + 1) * width + 1] - own.start
            yield Listed(
                _bags(listed.indices[own], by_sample, listed.data[own]),
                _bags(turned.indices[own] - first, by_source, turned.data[own]),
            )


def _bags(indices: NDArray[np.int32], offsets: NDArray[np.int32], values: NDArray[np.float32]) -> Bags:
    return Bags(torch.from_numpy(indices), torch.from_numpy(offsets), torch.from_numpy(values))
