"""Mini-batches of many devices that begin from the same weights, computed with one product for all.

Products of many rows take less time a row, and a gradient that is only averaged need not be written for each
device. Each mini-batch is normalised by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from torch import nn

from . import kernels
from .kernels import BIAS, MEAN
from .rare import add_rare, move_rare
from .sparse_inputs import Indices, SparseInputs
from .steps import Fed, Layer, Room, add_product, move_by_product

MOST_ROWS = 1024
"""Rows that are computed together: what they need stays near the processor."""
NOTHING = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Chunk:
    """Mini-batches that are computed together: `rows` of samples with their labels, of which edges[k] to
    edges[k + 1] are the k-th's. It counts by shares[k], float32.
    """

    rows: Indices
    labels: Indices
    edges: Indices
    shares: Floats

    @classmethod
    def of(cls, rows: Sequence[Indices], labels: Sequence[Indices], shares: Sequence[float]) -> Chunk:
        """Return mini-batches of these rows and labels, int64 [n] each."""
        edges = np.cumsum([0, *map(len, rows)])
        return cls(np.concatenate(rows), np.concatenate(labels), edges, np.array(shares, np.float32))


def chunks(passes: Iterable[Fed], shares: Iterable[float]) -> Iterator[Chunk]:
    """Yield the mini-batches of all passes, MOST_ROWS at a time, or one. A pass counts by its share, and its
    mini-batches alike.
    """
    rows: list[Indices] = []
    labels: list[Indices] = []
    by: list[float] = []
    count = 0
    for fed, share in zip(passes, shares, strict=True):
        for batch in fed.batches:
            size = batch.stop - batch.start
            if rows and count + size > MOST_ROWS:
                yield Chunk.of(rows, labels, by)
                rows, labels, by, count = [], [], [], 0
            rows.append(fed.rows[batch])
            labels.append(fed.labels[batch])
            by.append(share / len(fed.batches))
            count += size
    if rows:
        yield Chunk.of(rows, labels, by)


def first_sums(samples: SparseInputs, rows: Indices, weight: Floats, room: Room) -> Floats:
    """Compute the first layer's sums of these rows, and return what was multiplied of them, float32 [rows,
    common].
    """
    x, sums = np.take(samples.common, rows, 0, room.inputs, mode="clip"), room.sums[0]
    sums[...] = 0
    if len(samples.values):
        add_rare(sums, weight, rows, samples.starts, samples.columns, samples.values)
    add_product(sums, x, weight[: x.shape[1]])
    return x


def forward(
    samples: SparseInputs,
    rows: Indices,
    layers: Sequence[Layer],
    norms: Sequence[nn.BatchNorm1d | None],
    room: Room,
    normalise: Callable[[int, nn.BatchNorm1d], None],
) -> list[Floats]:
    """Compute the sums of each layer for these rows, and return the layers' inputs, float32 [rows, sources]
    each. `normalise` turns the sums of a layer with a batch norm into its outputs, in `room`.
    """
    inputs: list[Floats] = []
    for at, (layer, sums, outputs) in enumerate(zip(layers, room.sums, room.outputs, strict=True)):
        if at == 0:
            inputs.append(first_sums(samples, rows, layer.weight, room))
        else:
            np.matmul(inputs[at], layer.weight, out=sums)
        if at == len(norms):
            break
        norm = norms[at]
        if norm is None:
            kernels.rectify(sums, layer.vectors[BIAS], outputs)
        else:
            normalise(at, norm)
        inputs.append(outputs)
    return inputs


class Together:
    """The products of a chain with `layers`; `running` are sums, by shares, of the statistics of
    mini-batches, float32 [2, width] for each batch norm.
    """

    def __init__(self, layers: Sequence[Layer], norms: Sequence[nn.BatchNorm1d | None]) -> None:
        self._layers, self._norms = layers, norms
        self._saved: list[Floats] = []
        self.running = [np.zeros((2, layer.weight.shape[1]), np.float32) for layer in layers[: len(norms)]]

    def forward(self, samples: SparseInputs, chunk: Chunk, room: Room) -> list[Floats]:
        """Compute the sums of each layer, and return the layers' inputs, float32 [rows, sources] each."""
        widths = [layer.weight.shape[1] for layer in self._layers]
        self._saved = [
            np.empty((len(chunk.shares) if norm else 0, kernels.SAVED, width), np.float32)
            for norm, width in zip(self._norms, widths, strict=False)
        ]

        def normalise(at: int, norm: nn.BatchNorm1d) -> None:
            own = self._layers[at].vectors, np.float32(norm.eps), self._saved[at], self.running[at]
            kernels.normalise(room.sums[at], chunk.edges, chunk.shares, *own, room.outputs[at])

        return forward(samples, chunk.rows, self._layers, self._norms, room, normalise)

    def descend(
        self, samples: SparseInputs, chunk: Chunk, room: Room, moved: Sequence[Layer], rate: float
    ) -> float:
        """Add to `moved` a step of each mini-batch, by its share. Return the loss summed over samples."""
        inputs, down, none = self.forward(samples, chunk, room), np.float32(-rate), np.float32(0)
        errors = room.errors[-1]
        loss = kernels.errors_of(room.sums[-1], self._layers[-1].vectors[BIAS], chunk.labels, errors)
        sizes = np.diff(chunk.edges)
        errors *= np.repeat(chunk.shares / sizes, sizes).astype(np.float32)[:, None]
        kernels.move_bias(errors, moved[-1].vectors, NOTHING, down, none)
        for at in reversed(range(len(inputs))):
            x, weight = inputs[at], moved[at].weight
            move_by_product(weight[: x.shape[1]], x, room.errors[at], -rate)
            if at:
                across = torch.from_numpy(self._layers[at].weight).T
                torch.mm(room.error_tensors[at], across, out=room.error_tensors[at - 1])
                self._back(at - 1, chunk, room, moved[at - 1].vectors, down)
        if len(samples.values):
            totals = np.empty((len(weight), 0), np.float32)
            listed = samples.starts, samples.columns, samples.values
            move_rare(weight, totals, room.errors[0], chunk.rows, *listed, down, none)
        return float(loss)

    def _back(self, at: int, chunk: Chunk, room: Room, moved: Floats, down: np.float32) -> None:
        """Turn errors of a layer's outputs into those of its sums, and move its vectors."""
        errors, outputs, none = room.errors[at], room.outputs[at], np.float32(0)
        if self._norms[at] is None:
            kernels.back_rectified(errors, outputs)
            kernels.move_bias(errors, moved, NOTHING, down, none)
            return
        own = self._saved[at], self._layers[at].vectors, moved
        kernels.back_normalised(errors, chunk.edges, outputs, room.sums[at], *own, NOTHING, down, none)

    def set_statistics(self, layers: Sequence[Layer], *, moving: bool) -> None:
        """Make `running` the running statistics of batch norms; or, with `moving`, move those by their
        momentum.
        """
        for layer, norm, running in zip(layers, self._norms, self.running, strict=False):
            if norm is not None:
                statistics = layer.vectors[MEAN:]
                by = np.float32(norm.momentum if moving else 1)
                statistics[...] = statistics + by * (running - statistics) if moving else running
