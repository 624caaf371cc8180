"""A chain of dense layers, forward and backward by hand: what autograd computes, in less time.

A step of 50 samples is so short that calling its operators counts, and the weights that it goes through leave
little else in the caches. So operators are few: sums go into buffers that stay, the rate is divided by the
batch and errors are not, the loss is taken once a pass, and a bias before a batch norm, without a gradient,
rests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from crowdlearn_export.freezing import resting_modules
from torch import Tensor, nn

from ..sharing.flat import FlatEntry

ALIGNED = 16
"""Floats of a sample, when narrowed, are a multiple of this: products are fastest so."""
CLASSIFIED = 500
"""Samples that are classified at a time: their activations stay in the caches."""
LETTERS = {nn.Flatten: "F", nn.Linear: "L", nn.BatchNorm1d: "B", nn.ReLU: "R"}
"""What layers are called in the pattern of a chain."""

normalise = torch.ops.aten.native_batch_norm.default
normalise_backward = torch.ops.aten.native_batch_norm_backward.default
threshold_backward = torch.ops.aten.threshold_backward.default


@dataclass(frozen=True)
class Fed:
    """What a dominator feeds in a pass: inputs [N, sources], int64 labels [N], and its mini-batches, each the
    samples that follow those of the one before.

    `live`, int64, are the positions of the sources that are not zero in all samples (see `live_inputs`); None
    where all are to be taken.
    """

    inputs: Tensor
    labels: Tensor
    batches: Sequence[slice]
    live: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """A batch norm's floats, each [targets]; during a pass `mean` is without the layer's bias."""

    gain: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Layer:
    """A dense layer's floats, as views of a vector: `weight` [sources, targets], `bias` [targets]."""

    weight: Tensor
    bias: Tensor
    norm: Norm | None

    @property
    def moved(self) -> list[Tensor]:
        """The vectors that gradients move, in the order in which a step has these."""
        return [self.norm.shift, self.norm.gain] if self.norm else [self.bias]


@dataclass(frozen=True)
class Descent:
    """What the mini-batches of one size move in a pass, and room for what they compute.

    `sums`, `vectors` and `biases` take |gradient|, where it is summed. Errors are those of a loss summed over
    the mini-batch: `rate` and `share` divide by its samples.
    """

    rate: float
    share: float
    weights: list[Tensor]
    transposed: list[Tensor]
    sums: list[Tensor]
    vectors: list[Tensor]
    biases: list[Tensor]
    summed: list[Tensor]
    errors: list[Tensor]


class DenseChain:
    """Plain SGD of (Linear, perhaps BatchNorm1d, ReLU) layers and a last Linear under mean cross entropy.

    `vector` holds all floats in the order of sharing.flat, but weights transposed, [sources, targets]:
    products of few samples are faster so, and an input's weights are one row. An input that is zero in every
    sample of a pass moves no weight: its row is left out of the pass.
    """

    def __init__(self, layout: Sequence[FlatEntry], norms: Sequence[nn.BatchNorm1d | None]) -> None:
        self._layout = layout
        self._norms = norms
        self.vector = torch.empty(layout[-1].stop)
        self._layers = self._views(self.vector, transposed=True)
        self._moved = [vector for layer in reversed(self._layers) for vector in layer.moved]
        widths = [len(layer.bias) for layer in self._layers]
        self._one_hot = torch.eye(widths[-1])
        self._sums = [torch.empty(0, width) for width in widths]
        self._errors = [torch.empty(0, width) for width in widths]
        self._first = torch.empty_like(self._layers[0].weight)
        self._gradients = [torch.empty_like(layer.weight) for layer in self._layers]

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry]) -> DenseChain | None:
        """The chain that `model` is, its inputs flattened or not, or None where it is another network."""
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
        return cls(layout, norms) if len(trained) == len(own) else None  # none is frozen, or in two layers

    def entered(self, flat: Tensor) -> Tensor:
        """A vector in the order of sharing.flat as one like `vector`."""
        return self._turned(flat, entering=True)

    def left(self, own: Tensor) -> Tensor:
        """The inverse of `entered`."""
        return self._turned(own, entering=False)

    def _turned(self, vector: Tensor, entering: bool) -> Tensor:
        turned = vector.clone()
        layers = self._views(vector, transposed=not entering)
        for to, layer in zip(self._views(turned, transposed=entering), layers, strict=True):
            to.weight.copy_(layer.weight)
        return turned

    def train(self, passes: Iterable[Fed], rate: float, accumulated: Tensor) -> float:
        """SGD through all `passes`, of `vector` in place; the loss summed over samples.

        Adds |gradient| to `accumulated`, a vector like `vector`, unless it is empty.
        """
        totals = self._views(accumulated, transposed=True) if len(accumulated) else []
        return sum(self._pass(fed, rate, totals) for fed in passes)

    def classify(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """The classes int64 [N] of `inputs` [N, sources], by running statistics; `flat`: as sharing.flat."""
        folded = []
        for layer, norm in zip(self._views(flat, transposed=False), [*self._norms, None], strict=True):
            weight, bias = layer.weight, layer.bias
            if layer.norm and norm:
                scale = layer.norm.gain / torch.sqrt(layer.norm.variance + norm.eps)
                weight, bias = weight * scale, (bias - layer.norm.mean) * scale + layer.norm.shift
            folded.append((weight, bias))
        classes = []
        for x in torch.split(inputs, CLASSIFIED):
            for weight, bias in folded[:-1]:
                x = torch.addmm(bias, x, weight).relu_()
            classes.append(torch.addmm(folded[-1][1], x, folded[-1][0]).argmax(1))
        return torch.cat(classes)

    def _views(self, vector: Tensor, transposed: bool) -> list[Layer]:
        """The layers of a vector whose weights lie transposed, as in `vector`, or as in sharing.flat."""

        def views() -> Iterator[Tensor]:
            for entry in self._layout:
                part = vector[entry.start : entry.stop]
                if len(entry.shape) < 2:
                    yield part
                else:
                    yield part.view(entry.shape[::-1]) if transposed else part.view(entry.shape).t()

        part = views()
        return [
            Layer(
                next(part), next(part), Norm(next(part), next(part), next(part), next(part)) if norm else None
            )
            for norm in [*self._norms, None]
        ]

    def _pass(self, fed: Fed, rate: float, totals: Sequence[Layer]) -> float:
        inputs, live = fed.inputs, fed.live
        weights, sums = [layer.weight for layer in self._layers], [total.weight for total in totals]
        if live is not None:
            inputs = inputs.index_select(1, live)
            weights[0] = torch.index_select(weights[0], 0, live, out=self._first[: len(live)])
            sums[:1] = [total.index_select(0, live) for total in sums[:1]]
        fed_samples = slice(fed.batches[0].start, fed.batches[-1].stop)
        labels = fed.labels[fed_samples]
        logits = torch.empty(len(labels), self._one_hot.shape[1])
        sizes = [batch.stop - batch.start for batch in fed.batches]
        if 1 in sizes and any(self._norms):
            raise ValueError(
                "a mini-batch of one sample has no variance for batch norm; change training.batch"
            )
        self._add_bias_to_means(-1)
        descents = {rows: self._descent(rows, rate, weights, sums, totals) for rows in set(sizes)}
        parts = (torch.split(each, sizes) for each in (inputs[fed_samples], self._one_hot[labels], logits))
        transposed = torch.split(inputs[fed_samples].t(), sizes, 1)
        for rows, x_t, x, wanted, out in zip(sizes, transposed, *parts, strict=True):
            self._step(x, x_t, wanted, out, descents[rows])
        self._add_bias_to_means(1)
        if live is not None:
            self._layers[0].weight.index_copy_(0, live, weights[0])
            for whole, total in zip(totals[:1], sums, strict=False):
                whole.weight.index_copy_(0, live, total)
        return float(F.cross_entropy(logits, labels, reduction="sum"))

    def _add_bias_to_means(self, sign: float) -> None:
        """To running means of sums with their bias (1), or without it (-1), as a pass has them."""
        for layer in self._layers:
            if layer.norm:
                layer.norm.mean.add_(layer.bias, alpha=sign)

    def _descent(
        self,
        rows: int,
        rate: float,
        weights: list[Tensor],
        sums: list[Tensor],
        totals: Sequence[Layer],
    ) -> Descent:
        for at, layer in enumerate(self._layers):
            if len(self._sums[at]) < rows:
                self._sums[at], self._errors[at] = torch.empty(2, rows, len(layer.bias))
        return Descent(
            -rate / rows,
            1 / rows,
            weights,
            [weight.t() for weight in weights],
            sums,
            [vector for total in reversed(totals) for vector in total.moved],
            [total.bias for total in totals],
            [each[:rows] for each in self._sums],
            [each[:rows] for each in self._errors],
        )

    def _step(self, x: Tensor, x_t: Tensor, wanted: Tensor, logits: Tensor, to: Descent) -> None:
        """One mini-batch `x` [rows, sources], `wanted` one-hot: moves what is moved, leaves its `logits`."""
        saved = []
        for at, (norm, layer) in enumerate(zip(self._norms, self._layers, strict=False)):
            floats = layer.norm
            if norm and floats:
                summed = torch.mm(x, to.weights[at], out=to.summed[at])
                outputs, mean, inverse = normalise(
                    *(summed, floats.gain, floats.shift, floats.mean, floats.variance),
                    *(True, norm.momentum, norm.eps),
                )
                saved.append((outputs.relu_(), mean, inverse))
            else:
                outputs = torch.addmm(layer.bias, x, to.weights[at], out=to.summed[at]).relu_()
                saved.append((outputs, outputs, outputs))
            x = outputs
        torch.addmm(self._layers[-1].bias, x, to.weights[-1], out=logits)
        errors = torch.softmax(logits, 1).sub_(wanted)
        gradients = [errors.sum(0)]
        for at in reversed(range(len(saved))):
            back = torch.mm(errors, to.transposed[at + 1], out=to.errors[at])
            norm, floats = self._norms[at], self._layers[at].norm
            outputs, mean, inverse = saved[at]
            self._descend(at + 1, outputs.t(), errors, to)
            errors = threshold_backward(back, outputs, 0)
            if norm and floats:
                errors, by_gain, by_shift = normalise_backward(
                    *(errors, to.summed[at], floats.gain, floats.mean, floats.variance),
                    *(mean, inverse, True, norm.eps, [True, True, True]),
                )
                gradients += [by_shift, by_gain]
                if to.sums:
                    to.biases[at].add_(errors.sum(0).abs_(), alpha=to.share)
            else:
                gradients.append(errors.sum(0))
        self._descend(0, x_t, errors, to)
        torch._foreach_add_(self._moved, gradients, alpha=to.rate)
        if to.sums:
            torch._foreach_add_(to.vectors, torch._foreach_abs(gradients), alpha=to.share)

    def _descend(self, at: int, inputs_t: Tensor, errors: Tensor, to: Descent) -> None:
        """The step of one weight [sources, targets], and its |gradient| into its sum where one is kept."""
        if not to.sums:
            to.weights[at].addmm_(inputs_t, errors, alpha=to.rate)
            return
        gradient = torch.mm(inputs_t, errors, out=self._gradients[at][: len(inputs_t)])
        to.weights[at].add_(gradient, alpha=to.rate)
        to.sums[at].add_(gradient.abs_(), alpha=to.share)


def _as_usual(layer: nn.Module) -> bool:
    """Whether the layer does, when it is called and trained, what its type says and nothing else."""
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return False
    if isinstance(layer, nn.BatchNorm1d):
        return layer.affine and layer.track_running_stats and layer.momentum is not None
    if isinstance(layer, nn.Flatten):
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if isinstance(layer, nn.Linear):
        return layer.bias is not None
    return True


def live_inputs(inputs: Tensor) -> Tensor | None:
    """The columns of [N, sources] that are not zero in all rows, and some more, up to a multiple of ALIGNED.

    None where that is all columns.
    """
    live = (inputs.amax(0) != 0) | (inputs.amin(0) != 0)
    count = -(-int(live.sum()) // ALIGNED) * ALIGNED
    if count >= len(live):
        return None
    return torch.argsort(live, descending=True, stable=True)[:count].sort().values
