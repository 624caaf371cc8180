"""A chain of dense layers, forward and backward by hand: what autograd computes, in half its time or less.

Products are numpy's, and what lies between two of them is one compiled loop (see kernels.py). Sums go into
buffers that stay. The rate is divided by the batch, and errors are not. A bias before a batch norm, which has
no gradient, rests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.freezing import resting_modules
from torch import nn

from crowdlearn_host.methods.index_space import FlatEntry

from . import kernels
from .kernels import BIAS, GAIN, MEAN, SHIFT, VARIANCE
from .sparse_inputs import Columns, Indices, SparseInputs
from .steps import Fed, Layer, Rare, Step
from .together import Together, chunks, parts_of

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
        self.vector = np.empty(layout[-1].stop, np.float32)
        self._layers = self._views(self.vector, transposed=True)
        self._widths = [layer.vectors.shape[1] for layer in self._layers]
        self._saved = [np.empty((kernels.SAVED, width), np.float32) for width in self._widths]
        self._entered: tuple[Floats, Floats] | None = None
        """A vector that does not change, and what it is turned."""
        self._gradients = [np.empty_like(layer.weight) for layer in self._layers]
        self._room = [[np.empty((0, width), np.float32) for width in self._widths] for _ in range(3)]

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry], inputs: Floats) -> DenseChain | None:
        """Return the chain that `model` is, its inputs flattened or not, or None if it is another network.

        `inputs` [N, sources] are like those that it is to learn from: their columns are divided alike.
        """
        layers = list(model) if type(model) is nn.Sequential else []
        kinds = "".join(LETTERS.get(type(layer), "?") for layer in layers)
        usual = all(map(_as_usual, [model, *layers])) and not resting_modules(model)
        if not usual or not re.fullmatch("F?(LB?R)+L", kinds):
            return None
        places = [at for at, kind in enumerate(kinds) if kind == "L"]
        following = [layers[at + 1] for at in places[:-1]]
        norms = [each if isinstance(each, nn.BatchNorm1d) else None for each in following]
        own = [parameter for layer in layers for parameter in layer.parameters()]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if len(trained) < len(own):  # some are frozen, or in two layers
            return None
        return cls(layout, norms, Columns.of(inputs))

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
        turned, order = vector.copy(), self.columns.order
        layers = self._views(vector, transposed=not entering)
        for at, (to, layer) in enumerate(zip(self._views(turned, transposed=entering), layers, strict=True)):
            if at:
                to.weight[...] = layer.weight
            elif entering:
                np.take(layer.weight, order, 0, to.weight, mode="clip")
            else:
                to.weight[order] = layer.weight
        return turned

    def train(self, passes: Iterable[Fed], rate: float, accumulated: Floats) -> float:
        """Descend through all `passes`, moving `vector` in place; return the loss summed over samples.

        Adds |gradient| to `accumulated`, a vector like `vector`, unless it is empty.
        Vectors are float32 [floats].
        """
        if len(accumulated):
            totals = self._views(accumulated, transposed=True)
        else:
            nothing = np.empty((0, 0), np.float32)
            totals = [Layer(np.empty((len(each.weight), 0), np.float32), nothing) for each in self._layers]
        return sum(self._pass(fed, rate, totals) for fed in passes)

    def average_once(self, passes: Sequence[Fed], shares: Sequence[float], rate: float) -> float:
        """Move `vector` to a mean by `shares`, 1 in sum: of what each pass of one mini-batch makes of it.
        Return the loss summed over samples.

        Products are those of many passes together: all begin from the same weights.
        """
        for fed in passes:
            self._check(fed)
        mean = self.vector.copy()
        moved = self._views(mean, transposed=True)
        together = Together(self._layers, self._norms, self._saved)
        running = [np.zeros((2, width)) for width in self._widths]
        loss = 0.0
        for parts in chunks(parts_of(passes, shares, self._layers)):
            step = self._step(parts[-1].rows.stop, rate, [])
            loss += together.descend(parts, step, moved, self._gradients, rate)
            together.add_statistics(parts, running)
        together.set_statistics(moved, running)
        self.vector[:] = mean
        return loss

    def gather_statistics(self, passes: Iterable[tuple[Fed, float]]) -> None:
        """Give the batch norms of `vector` the statistics of its own sums: of each pass means over its
        mini-batches, and of the passes the mean by their shares, which are 1 in sum.
        """
        fed, shares = zip(*passes, strict=True)
        for each in fed:
            self._check(each)
        together = Together(self._layers, self._norms, self._saved)
        running = [np.zeros((2, width)) for width in self._widths]
        for parts in chunks(parts_of(fed, shares, self._layers, of_means=True)):
            together.forward(parts, self._step(parts[-1].rows.stop, 0.0, []))
            together.add_statistics(parts, running)
        together.set_statistics(self._layers, running)

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
        for start in range(0, len(tested), CLASSIFIED):
            rows = np.array(tested[start : start + CLASSIFIED])
            x = samples.common[rows]
            for at, (weight, bias) in enumerate(folded):
                x = x @ weight[: x.shape[1]]
                if at == 0:
                    kernels.add_rare(x, weight, rows, samples.starts, samples.columns, samples.values)
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

    def _pass(self, fed: Fed, rate: float, totals: list[Layer]) -> float:
        self._check(fed)
        sizes = {batch.stop - batch.start for batch in fed.batches}
        steps = {rows: self._step(rows, rate, totals) for rows in sizes}
        common, loss = fed.samples.common[fed.rows], 0.0
        for batch in fed.batches:
            step = steps[batch.stop - batch.start]
            loss += self._descend(common[batch], fed.samples, fed.rows[batch], fed.labels[batch], step)
        return loss

    def _check(self, fed: Fed) -> None:
        if any(self._norms) and any(batch.stop - batch.start == 1 for batch in fed.batches):
            raise ValueError(
                "a mini-batch of one sample has no variance for batch norm; change training.batch"
            )
        classes = self._widths[-1]  # loops look at no bounds
        if not ((fed.labels >= 0) & (fed.labels < classes)).all():
            raise ValueError(f"a label is not one of the {classes} classes that the network distinguishes")

    def _step(self, rows: int, rate: float, totals: list[Layer]) -> Step:
        if len(self._room[0][0]) < rows:
            self._room = [[np.empty((rows, width), np.float32) for width in self._widths] for _ in range(3)]
        room = ([each[:rows] for each in kind] for kind in self._room)
        return Step(np.float32(-rate / rows), np.float32(1 / rows), totals, *room)

    def _descend(self, x: Floats, samples: SparseInputs, rows: Indices, labels: Indices, to: Step) -> float:
        """Descend on one mini-batch, these rows of `samples`, whose common columns are `x`. Return the loss
        summed over samples.
        """
        rare = rows, samples.starts, samples.columns, samples.values
        inputs = self._forward(x, len(samples.values) > 0, rare, to)
        vectors, errors = self._layers[-1].vectors, to.errors[-1]
        loss = kernels.errors_of(to.sums[-1], vectors[BIAS], labels, errors)
        kernels.move_bias(errors, vectors, to.totals[-1].vectors, to.rate, to.share)
        for at in reversed(range(len(inputs))):
            x, weight, total = inputs[at], self._layers[at].weight, to.totals[at].weight
            count = x.shape[1]
            by = np.matmul(x.T, errors, out=self._gradients[at][:count])
            if at:
                np.matmul(errors, weight.T, out=to.errors[at - 1])
            elif len(samples.values):
                kernels.move_rare(weight, total, errors, *rare, to.rate, to.share)
            moved, summed = weight[:count].reshape(-1), total[:count].reshape(-1)
            kernels.move(moved, by.reshape(-1), summed, to.rate, to.share)
            if at:
                errors = to.errors[at - 1]
                self._back(at - 1, errors, to)
        return loss

    def _forward(self, x: Floats, listed: bool, rare: Rare, to: Step) -> list[Floats]:
        """Compute the sums of each layer of a mini-batch, and return the layers' inputs. `rare` is read if
        any are `listed`.
        """
        inputs = [x]
        for at, layer in enumerate(self._layers):
            sums, outputs = to.sums[at], to.outputs[at]
            np.matmul(x, layer.weight[: x.shape[1]], out=sums)
            if at == 0 and listed:
                kernels.add_rare(sums, layer.weight, *rare)
            if at == len(self._norms):
                break
            norm = self._norms[at]
            if norm:
                by = np.float32(norm.momentum)
                kernels.normalise(sums, layer.vectors, by, np.float32(norm.eps), self._saved[at], outputs)
            else:
                kernels.rectify(sums, layer.vectors[BIAS], outputs)
            x = outputs
            inputs.append(x)
        return inputs

    def _back(self, at: int, errors: Floats, to: Step) -> None:
        """Turn errors of a layer's outputs into those of its sums, and move its vectors."""
        vectors, totals, outputs = self._layers[at].vectors, to.totals[at].vectors, to.outputs[at]
        if self._norms[at]:
            saved = self._saved[at]
            kernels.back_normalised(errors, outputs, to.sums[at], saved, vectors, totals, to.rate, to.share)
        else:
            kernels.back_rectified(errors, outputs)
            kernels.move_bias(errors, vectors, totals, to.rate, to.share)


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
