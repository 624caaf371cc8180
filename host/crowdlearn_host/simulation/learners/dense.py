"""A chain of dense layers, forward and backward by hand: what autograd computes, in half its time or less.

Products are a library's, and what lies between two of them is one compiled loop (see kernels.py). Sums go
into buffers that stay. The rate is divided by the batch, and errors are not. A bias before a batch norm,
which has no gradient, rests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.freezing import resting_modules
from torch import nn

from crowdlearn_host.methods.index_space import FlatEntry

from . import kernels
from .kernels import BIAS, GAIN, MEAN, SHIFT, VARIANCE
from .rare import add_rare, move_rare
from .sparse_inputs import Columns, Indices, SparseInputs
from .steps import Fed, Layer, Room, aligned, move_by_product
from .together import Together, chunks, forward

CLASSIFIED = 500
"""Samples that are classified at a time: their activations stay in the caches."""
LETTERS = {nn.Flatten: "F", nn.Linear: "L", nn.BatchNorm1d: "B", nn.ReLU: "R"}
"""The letters of layers in the pattern of a chain."""


class DenseChain:
    """The plain SGD of (Linear, perhaps BatchNorm1d, ReLU) layers and a last Linear under mean cross entropy.

    `vector` holds all floats in the order of sharing.flat, but weights transposed, [sources, targets]:
    products of few samples are faster so, and an input's weights are one row. Those of the first layer are in
    the order of `columns`, which says what of the inputs is multiplied.
    """

    def __init__(
        self, layout: Sequence[FlatEntry], norms: Sequence[nn.BatchNorm1d | None], columns: Columns
    ) -> None:
        self._layout = layout
        self._norms = norms
        self.columns = columns
        self.vector = aligned(layout[-1].stop)
        self._layers = self._views(self.vector, transposed=True)
        self._widths = [layer.vectors.shape[1] for layer in self._layers]
        self._across = [torch.from_numpy(layer.weight).T for layer in self._layers]
        """Weights as errors are multiplied by: where rows are few, PyTorch takes three quarters of numpy's
        time.
        """
        self._momenta = [np.full(1, norm.momentum if norm else 0, np.float32) for norm in norms]
        self._saved = [aligned(1, kernels.SAVED, width) for width in self._widths]
        self._entered: tuple[Floats, Floats] | None = None
        """A vector that does not change, and what it is turned."""
        self._gradients = [np.empty_like(layer.weight) for layer in self._layers]
        self._most = Room.of(0, columns.count, self._widths)
        self._rooms: dict[int, Room] = {}

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry], columns: Columns) -> DenseChain | None:
        """Return the chain that `model` is, its inputs flattened or not, or None if it is another network."""
        if not is_dense_chain(model):
            return None
        layers = list(model.children())
        places = [at for at, layer in enumerate(layers) if isinstance(layer, nn.Linear)]
        following = [layers[at + 1] for at in places[:-1]]
        norms = [each if isinstance(each, nn.BatchNorm1d) else None for each in following]
        return cls(layout, norms, columns)

    def entered(self, flat: Floats) -> Floats:
        """Return a vector in the order of sharing.flat as one like `vector`, which is not to be changed. It
        is float32 [floats].
        """
        if self._entered is not None and self._entered[0] is flat:
            return self._entered[1]
        turned = self._turned(flat, entering=True)
        self._entered = None if flat.flags.writeable else (flat, turned)
        return turned

    def left(self, own: Floats) -> Floats:
        """Return the inverse of `entered`. It is float32 [floats]."""
        return self._turned(own, entering=False)

    def _turned(self, vector: Floats, entering: bool) -> Floats:
        turned, order = aligned(len(vector)), self.columns.order
        layers = self._views(vector, transposed=not entering)
        for at, (to, layer) in enumerate(zip(self._views(turned, transposed=entering), layers, strict=True)):
            to.vectors[...] = layer.vectors
            if at:
                to.weight[...] = layer.weight
            elif entering:
                np.take(layer.weight, order, 0, to.weight, mode="clip")
            else:
                to.weight[order] = layer.weight
        return turned

    def train(self, samples: SparseInputs, passes: Iterable[Fed], rate: float, accumulated: Floats) -> float:
        """Descend through all `passes`, moving `vector` in place; return the loss summed over samples.

        Adds |gradient| to `accumulated`, a vector like `vector`, unless it is empty.
        Vectors are float32 [floats].
        """
        if len(accumulated):
            totals = self._views(accumulated, transposed=True)
        else:
            nothing = np.empty((0, 0), np.float32)
            totals = [Layer(np.empty((len(each.weight), 0), np.float32), nothing) for each in self._layers]
        return sum(self._pass(samples, fed, rate, totals) for fed in passes)

    def average_once(
        self, samples: SparseInputs, passes: Sequence[Fed], shares: Sequence[float], rate: float
    ) -> tuple[Floats, float]:
        """Return the mean by `shares`, 1 in sum, of what each pass of one mini-batch makes of `vector`,
        float32 [floats]; and the loss summed over samples. `vector` stays as it is.

        Products are those of many passes together: all begin from the same weights.
        """
        self._check(passes)
        mean = aligned(len(self.vector))
        mean[:] = self.vector
        moved = self._views(mean, transposed=True)
        together = Together(self._layers, self._norms)
        loss = 0.0
        for chunk in chunks(passes, shares):
            loss += together.descend(samples, chunk, self._room(len(chunk.rows)), moved, rate)
        together.set_statistics(moved, moving=True)
        return mean, loss

    def gather_statistics(
        self, samples: SparseInputs, passes: Sequence[Fed], shares: Sequence[float]
    ) -> None:
        """Give the batch norms of `vector` the statistics of its own sums: of each pass means over its
        mini-batches, and of the passes the mean by their shares, which are 1 in sum.
        """
        self._check(passes)
        together = Together(self._layers, self._norms)
        for chunk in chunks(passes, shares):
            together.forward(samples, chunk, self._room(len(chunk.rows)))
        together.set_statistics(self._layers, moving=False)

    def classify(self, flat: Floats, samples: SparseInputs, tested: range) -> Indices:
        """Return the classes of the samples `tested`, by running statistics; `flat`: as sharing.flat.

        They are int64 [n].
        """
        folded = []
        layers = self._views(self.entered(flat), transposed=True)
        for layer, norm in zip(layers, [*self._norms, None], strict=True):
            weight, bias = layer.weight, layer.vectors[BIAS]
            if norm:
                vectors = layer.vectors
                scale = vectors[GAIN] / np.sqrt(vectors[VARIANCE] + np.float32(norm.eps))
                weight, bias = weight * scale, (bias - vectors[MEAN]) * scale + vectors[SHIFT]
            folded.append((weight, bias))
        classes = []
        for start in range(tested.start, tested.stop, CLASSIFIED):
            rows = np.arange(start, min(start + CLASSIFIED, tested.stop))
            x = samples.common[start : start + len(rows)]
            for at, ((weight, bias), sums) in enumerate(zip(folded, self._room(len(rows)).sums, strict=True)):
                x = np.matmul(x, weight[: x.shape[1]], out=sums)
                if at == 0 and len(samples.values):
                    add_rare(x, weight, rows, samples.starts, samples.columns, samples.values)
                if at + 1 < len(folded):
                    kernels.rectify(x, bias, x)
            classes.append((x + folded[-1][1]).argmax(1))
        return np.concatenate(classes)

    def _views(self, vector: Floats, transposed: bool) -> list[Layer]:
        """Return the layers of a vector whose weights lie transposed, as in `vector`, or as in
        sharing.flat.
        """
        entries: Iterator[FlatEntry] = iter(self._layout)
        layers = []
        for norm in [*self._norms, None]:
            entry = next(entries)
            part = vector[entry.start : entry.stop]
            weight = part.reshape(entry.shape[::-1]) if transposed else part.reshape(entry.shape).T
            count = VARIANCE + 1 if norm else 1
            stop = [next(entries).stop for _ in range(count)][-1]
            layers.append(Layer(weight, vector[entry.stop : stop].reshape(count, -1)))
        return layers

    def _pass(self, samples: SparseInputs, fed: Fed, rate: float, totals: list[Layer]) -> float:
        self._check([fed])
        loss = 0.0
        for batch in fed.batches:
            rows = fed.rows[batch]
            by = np.float32(-rate / len(rows)), np.float32(1 / len(rows))
            loss += self._descend(samples, rows, fed.labels[batch], self._room(len(rows)), totals, by)
        return loss

    def _check(self, passes: Sequence[Fed]) -> None:
        alone = (batch.stop - batch.start == 1 for fed in passes for batch in fed.batches)
        if any(self._norms) and any(alone):
            raise ValueError(
                "a mini-batch of one sample has no variance for batch norm; change training.batch"
            )
        classes = self._widths[-1]  # loops look at no bounds
        for fed in passes:
            if len(fed.labels) and not (fed.labels.min() >= 0 and fed.labels.max() < classes):
                raise ValueError(
                    f"a label is not one of the {classes} classes that the network distinguishes"
                )

    def _room(self, rows: int) -> Room:
        if len(self._most) < rows:
            self._most, self._rooms = Room.of(rows, self.columns.count, self._widths), {}
        if rows not in self._rooms:
            self._rooms[rows] = self._most.part(rows)
        return self._rooms[rows]

    def _descend(
        self,
        samples: SparseInputs,
        rows: Indices,
        labels: Indices,
        room: Room,
        totals: Sequence[Layer],
        by: tuple[np.float32, np.float32],
    ) -> float:
        """Descend on one mini-batch, these rows of `samples`. Return the loss summed over samples.

        Errors are those of a loss summed over the mini-batch: `by`, the rate and the share of a gradient in
        `totals`, divide by its samples. `totals` take |gradient|, and are empty if none is summed.
        """
        inputs = self._forward(samples, rows, room)
        vectors, errors = self._layers[-1].vectors, room.errors[-1]
        loss = kernels.errors_of(room.sums[-1], vectors[BIAS], labels, errors)
        kernels.move_bias(errors, vectors, totals[-1].vectors, *by)
        for at in reversed(range(1, len(inputs))):
            torch.mm(room.error_tensors[at], self._across[at], out=room.error_tensors[at - 1])
            self._move(at, inputs[at], room.errors[at], totals[at].weight, by)
            self._back(at - 1, room, totals[at - 1].vectors, by)
        weight, total, errors = self._layers[0].weight, totals[0].weight, room.errors[0]
        self._move(0, inputs[0], errors, total, by)
        if len(samples.values):  # at last, and first in the next step: the weights are in the caches still
            listed = samples.starts, samples.columns, samples.values
            move_rare(weight, total, errors, rows, *listed, *by)
        return loss

    def _forward(self, samples: SparseInputs, rows: Indices, room: Room) -> list[Floats]:
        """Compute the sums of each layer of a mini-batch, and return the layers' inputs."""

        def normalise(at: int, norm: nn.BatchNorm1d) -> None:
            vectors, share = self._layers[at].vectors, self._momenta[at]
            running = vectors[MEAN:]
            running *= 1 - share
            own = vectors, np.float32(norm.eps), self._saved[at], running
            kernels.normalise(room.sums[at], room.edges, share, *own, room.outputs[at])

        return forward(samples, rows, self._layers, self._norms, room, normalise)

    def _move(
        self, at: int, x: Floats, errors: Floats, total: Floats, by: tuple[np.float32, np.float32]
    ) -> None:
        """Step a layer's weights, those of its first inputs if `x` has few; add |gradient| to `total`, unless
        it has no columns.
        """
        count = x.shape[1]
        moved = self._layers[at].weight[:count]
        if not total.shape[1]:
            move_by_product(moved, x, errors, float(by[0]))
            return
        gradient = np.matmul(x.T, errors, out=self._gradients[at][:count])
        kernels.move(moved.reshape(-1), gradient.reshape(-1), total[:count].reshape(-1), *by)

    def _back(self, at: int, room: Room, totals: Floats, by: tuple[np.float32, np.float32]) -> None:
        """Turn errors of a layer's outputs into those of its sums, and move its vectors."""
        vectors, errors, outputs = self._layers[at].vectors, room.errors[at], room.outputs[at]
        if self._norms[at]:
            own = self._saved[at], vectors, vectors
            kernels.back_normalised(errors, room.edges, outputs, room.sums[at], *own, totals, *by)
        else:
            kernels.back_rectified(errors, outputs)
            kernels.move_bias(errors, vectors, totals, *by)


def is_dense_chain(model: nn.Module) -> bool:
    """Return whether a network is (Linear, perhaps BatchNorm1d, ReLU) layers and a last Linear, all of which
    learn.
    """
    layers = list(model) if type(model) is nn.Sequential else []
    kinds = "".join(LETTERS.get(type(layer), "?") for layer in layers)
    usual = all(map(_as_usual, [model, *layers])) and not resting_modules(model)
    if not usual or not re.fullmatch("F?(LB?R)+L", kinds):
        return False
    own = [parameter for layer in layers for parameter in layer.parameters()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return len(trained) == len(own)  # else some are frozen, or in two layers


def _as_usual(layer: nn.Module) -> bool:
    """Return whether the layer does, when it is called and trained, what its type says and nothing else."""
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    if isinstance(layer, nn.BatchNorm1d):
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if isinstance(layer, nn.Linear):
        return layer.bias is not None
    return True


def common_columns(inputs: Floats) -> int:
    """Return how many columns of `inputs`, float32 [N, sources], are multiplied and not listed."""
    return Columns.of(inputs).count
