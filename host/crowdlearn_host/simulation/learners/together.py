"""Mini-batches of many devices that begin from the same weights, computed with one product for all.

Products of many rows take less time a row, and a gradient that is only averaged need not be written for each
device. Each device has its own batch norms: their means, and how gains and shifts move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from torch import nn

from . import kernels
from .kernels import BIAS, GAIN, MEAN, SHIFT, VARIANCE
from .sparse_inputs import Indices
from .steps import Fed, Layer, Rare, Step

MOST_ROWS = 1024
"""Rows that are computed together: what they need stays near the processor."""
NOTHING = np.empty((0, 0), np.float32)


@dataclass(frozen=True)
class Part:
    """A mini-batch among others: its `rows` there, and a device's own copy of the layers' vectors.

    Its device counts by `share` in the mean, once its last mini-batch is there. Running statistics move by
    `momentum`; None: by that of each batch norm.
    """

    rows: slice
    inputs: Floats
    labels: Indices
    rare: Rare
    vectors: Sequence[Floats]
    share: float
    momentum: float | None


def parts_of(
    passes: Iterable[Fed], shares: Iterable[float], layers: Sequence[Layer], *, of_means: bool = False
) -> Iterator[Part]:
    """Yield the mini-batches of passes, each at row 0. With `of_means` running statistics become means over
    the mini-batches of a pass.
    """
    for fed, share in zip(passes, shares, strict=True):
        vectors = [layer.vectors.copy() for layer in layers]
        samples = fed.samples
        for number, batch in enumerate(fed.batches):
            rows = fed.rows[batch]
            yield Part(
                slice(0, len(rows)),
                samples.common[rows],
                fed.labels[batch],
                (rows, samples.starts, samples.columns, samples.values),
                vectors,
                share if number + 1 == len(fed.batches) else 0.0,
                1 / (number + 1) if of_means else None,
            )


def chunks(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Yield parts that are computed together, with their places: MOST_ROWS, or one part."""
    found: list[Part] = []
    for part in parts:
        at = found[-1].rows.stop if found else 0
        if found and at + part.rows.stop > MOST_ROWS:
            yield found
            found, at = [], 0
        found.append(
            Part(
                slice(at, at + part.rows.stop),
                part.inputs,
                part.labels,
                part.rare,
                part.vectors,
                part.share,
                part.momentum,
            )
        )
    if found:
        yield found


class Together:
    """The products of a chain with `layers`, and of each of its batch norms what `saved` has room for."""

    def __init__(
        self, layers: Sequence[Layer], norms: Sequence[nn.BatchNorm1d | None], saved: Sequence[Floats]
    ) -> None:
        self._layers, self._norms, self._saved = layers, norms, saved
        self._kept: list[list[Floats]] = []
        """The rows that normalising kept, by batch norm and part."""

    def forward(self, parts: Sequence[Part], to: Step) -> list[Floats]:
        """Compute the sums of each layer of all parts, and return the layers' inputs [rows, sources]."""
        x = np.concatenate([part.inputs for part in parts])
        inputs, self._kept = [x], []
        for at, layer in enumerate(self._layers):
            sums, outputs = to.sums[at], to.outputs[at]
            np.matmul(x, layer.weight[: x.shape[1]], out=sums)
            for part in parts if at == 0 else ():
                kernels.add_rare(sums[part.rows], layer.weight, *part.rare)
            if at == len(self._norms):
                break
            norm = self._norms[at]
            if norm is None:
                kernels.rectify(sums, layer.vectors[BIAS], outputs)
            else:
                self._kept.append([np.empty_like(self._saved[at]) for _ in parts])
                for part, saved in zip(parts, self._kept[-1], strict=True):
                    by = np.float32(norm.momentum if part.momentum is None else part.momentum)
                    own = sums[part.rows], part.vectors[at], by, np.float32(norm.eps), saved
                    kernels.normalise(*own, outputs[part.rows])
            if norm is None:
                self._kept.append([])
            x = outputs
            inputs.append(x)
        return inputs

    def descend(
        self,
        parts: Sequence[Part],
        to: Step,
        moved: Sequence[Layer],
        gradients: Sequence[Floats],
        rate: float,
    ) -> float:
        """Add to `moved` a step of each part, by its share. Return the loss summed over samples.

        Gradients are room like the weights, float32 [sources, targets].
        """
        inputs, down, none = self.forward(parts, to), np.float32(-rate), np.float32(0)
        errors, nothing = to.errors[-1], NOTHING[0:0].reshape(-1)
        labels = np.concatenate([part.labels for part in parts])
        loss = kernels.errors_of(to.sums[-1], self._layers[-1].vectors[BIAS], labels, errors)
        for part in parts:
            errors[part.rows] *= np.float32(part.share / len(part.labels))
        kernels.move_bias(errors, moved[-1].vectors, NOTHING, down, none)
        for at in reversed(range(len(inputs))):
            x, weight = inputs[at], self._layers[at].weight
            count = x.shape[1]
            by = np.matmul(x.T, errors, out=gradients[at][:count])
            kernels.move(moved[at].weight[:count].reshape(-1), by.reshape(-1), nothing, down, none)
            if at == 0:
                totals = np.empty((len(weight), 0), np.float32)
                for part in parts:
                    kernels.move_rare(moved[0].weight, totals, errors[part.rows], *part.rare, down, none)
                break
            np.matmul(errors, weight.T, out=to.errors[at - 1])
            errors = to.errors[at - 1]
            self._back(at - 1, parts, errors, to, moved, down)
        return float(loss)

    def _back(
        self,
        at: int,
        parts: Sequence[Part],
        errors: Floats,
        to: Step,
        moved: Sequence[Layer],
        down: np.float32,
    ) -> None:
        """Turn errors of a layer's outputs into those of its sums, and move its vectors."""
        outputs, none = to.outputs[at], np.float32(0)
        if self._norms[at] is None:
            kernels.back_rectified(errors, outputs)
            kernels.move_bias(errors, moved[at].vectors, NOTHING, down, none)
            return
        learned = slice(GAIN, SHIFT + 1)
        before = self._layers[at].vectors[learned]
        for part, saved in zip(parts, self._kept[at], strict=True):
            rows, vectors = part.rows, part.vectors[at]
            own = errors[rows], outputs[rows], to.sums[at][rows], saved, vectors
            kernels.back_normalised(*own, NOTHING, down, none)
            moved[at].vectors[learned] += vectors[learned] - before

    def add_statistics(self, parts: Sequence[Part], running: Sequence[Floats]) -> None:
        """Add each part's running statistics, by its share, to those of batch norms, float64 [2, width]."""
        for at, norm in enumerate(self._norms):
            for part in parts if norm is not None else ():
                running[at][...] += part.share * part.vectors[at][MEAN : VARIANCE + 1].astype(np.float64)

    def set_statistics(self, layers: Sequence[Layer], running: Sequence[Floats]) -> None:
        """Make these the running statistics of layers with batch norms, float64 [2, width] each."""
        for layer, norm, statistics in zip(layers, self._norms, running, strict=False):
            if norm is not None:
                layer.vectors[MEAN : VARIANCE + 1] = statistics
