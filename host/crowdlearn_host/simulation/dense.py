"""The paper's chain of dense layers, forward and backward by hand: what autograd computes, in less time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..sharing.flat import FlatEntry

aten = torch.ops.aten

ALIGNED = 16
"""Floats of a sample, when narrowed, are a multiple of this: products are fastest so."""
Fed = tuple[Tensor, Tensor, Sequence[slice]]
"""What a dominator feeds in a pass: inputs [N, sources], int64 labels [N], and its mini-batches."""


class DenseChain:
    """Plain SGD of (Linear, BatchNorm1d, ReLU) layers and a last Linear under mean cross entropy.

    `vector` holds all floats in the order of sharing.flat, but weights transposed, [sources, targets]:
    products of few samples are faster so, and an input's weights are one row. An input that is zero in every
    sample of a pass moves no weight: its row is left out of the pass.
    """

    def __init__(self, layout: Sequence[FlatEntry], norms: Sequence[nn.BatchNorm1d]) -> None:
        self._layout = layout
        self._norms = norms
        self.vector = torch.empty(layout[-1].stop)
        self._weights, self._vectors, self._statistics = self._views(self.vector)
        self._gradients = [torch.empty_like(weight) for weight in self._weights]

    @classmethod
    def of(cls, model: nn.Module, layout: Sequence[FlatEntry]) -> DenseChain | None:
        """The chain that `model` is, or None where it is another network."""
        layers = list(model) if isinstance(model, nn.Sequential) else []
        kinds = [type(layer) for layer in layers]
        hidden = len(layers) // 3
        if not hidden or kinds != [*(nn.Linear, nn.BatchNorm1d, nn.ReLU) * hidden, nn.Linear]:
            return None
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
        plain = all(n.affine and n.track_running_stats and n.momentum is not None for n in norms)
        biased = all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear))
        return cls(layout, norms) if plain and biased else None

    def entered(self, flat: Tensor) -> Tensor:
        """A vector in the order of sharing.flat as one like `vector`."""
        own = flat.clone()
        for entry in self._layout:
            if len(entry.shape) == 2:
                span = slice(entry.start, entry.stop)
                own[span].view(entry.shape[::-1]).copy_(flat[span].view(entry.shape).t())
        return own

    def left(self, own: Tensor) -> Tensor:
        """The inverse of `entered`."""
        flat = own.clone()
        for entry in self._layout:
            if len(entry.shape) == 2:
                span = slice(entry.start, entry.stop)
                flat[span].view(entry.shape).copy_(own[span].view(entry.shape[::-1]).t())
        return flat

    def train(self, passes: Iterable[Fed], rate: float, accumulated: Tensor) -> float:
        """SGD through all `passes`, of `vector` in place; the loss summed over samples.

        Adds |gradient| to `accumulated`, a vector like `vector`, unless it is empty.
        """
        sums, vector_sums, _ = self._views(accumulated) if len(accumulated) else ([], [], [])
        return sum(self._pass(*fed, rate, sums, vector_sums) for fed in passes)

    def _views(self, vector: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Weights, other parameters and running statistics in a vector like `vector`."""
        weights: list[Tensor] = []
        vectors: list[Tensor] = []
        statistics: list[Tensor] = []
        for entry in self._layout:
            part = vector[entry.start : entry.stop]
            if len(entry.shape) == 2:
                weights.append(part.view(entry.shape[::-1]))
            else:
                (statistics if "running_" in entry.name else vectors).append(part)
        return weights, vectors, statistics

    def _pass(
        self,
        inputs: Tensor,
        labels: Tensor,
        batches: Sequence[slice],
        rate: float,
        sums: Sequence[Tensor],
        vector_sums: list[Tensor],
    ) -> float:
        live = _live(inputs) if len(batches) > 2 else None
        weights, own_sums = list(self._weights), list(sums)
        if live is not None:
            inputs = inputs.index_select(1, live)
            weights[0] = weights[0].index_select(0, live)
            own_sums[:1] = [total.index_select(0, live) for total in sums[:1]]
        loss = 0.0
        for batch in batches:
            own = labels[batch]
            loss += len(own) * self._step(inputs[batch], own, weights, rate, own_sums, vector_sums)
        if live is not None:
            self._weights[0].index_copy_(0, live, weights[0])
            for whole, total in zip(sums[:1], own_sums, strict=False):
                whole.index_copy_(0, live, total)
        return loss

    def _step(
        self,
        inputs: Tensor,
        labels: Tensor,
        weights: Sequence[Tensor],
        rate: float,
        sums: Sequence[Tensor],
        vector_sums: list[Tensor],
    ) -> float:
        """One mini-batch: moves `weights` and the vectors, and returns the mean loss."""
        vectors = self._vectors
        saved = []
        x = inputs
        for at, norm in enumerate(self._norms):
            bias, gain, shift = vectors[3 * at : 3 * at + 3]
            entered = torch.addmm(bias, x, weights[at])
            running = self._statistics[2 * at : 2 * at + 2]
            outputs, mean, inverse = aten.native_batch_norm(
                entered, gain, shift, *running, True, norm.momentum or 0.0, norm.eps
            )
            saved.append((x, entered, outputs.relu_(), mean, inverse))
            x = outputs
        logs = torch.log_softmax(torch.addmm(vectors[-1], x, weights[-1]), 1)
        right = labels[:, None]
        loss = -logs.gather(1, right).mean().item()
        errors = logs.exp_()
        errors.scatter_add_(1, right, torch.full_like(right, -1, dtype=errors.dtype))
        errors.div_(len(labels))
        gradients = [errors.sum(0)]
        back = errors @ weights[-1].t()
        self._descend(-1, x, errors, weights, rate, sums)
        for at in reversed(range(len(self._norms))):
            norm, (x, entered, outputs, mean, inverse) = self._norms[at], saved[at]
            running = self._statistics[2 * at : 2 * at + 2]
            errors, by_gain, by_shift = aten.native_batch_norm_backward(
                *(aten.threshold_backward(back, outputs, 0), entered, vectors[3 * at + 1], *running),
                *(mean, inverse, True, norm.eps, [True, True, True]),
            )
            gradients += [by_shift, by_gain, errors.sum(0)]
            if at:
                back = errors @ weights[at].t()
            self._descend(at, x, errors, weights, rate, sums)
        gradients.reverse()
        torch._foreach_add_(vectors, gradients, alpha=-rate)
        if vector_sums:
            torch._foreach_add_(vector_sums, torch._foreach_abs(gradients))
        return loss

    def _descend(
        self,
        at: int,
        inputs: Tensor,
        errors: Tensor,
        weights: Sequence[Tensor],
        rate: float,
        sums: Sequence[Tensor],
    ) -> None:
        """The step of one weight [sources, targets], and its |gradient| into its sum where one is kept."""
        if not sums:
            weights[at].addmm_(inputs.t(), errors, alpha=-rate)
            return
        gradient = torch.mm(inputs.t(), errors, out=self._gradients[at][: inputs.shape[1]])
        weights[at].add_(gradient, alpha=-rate)
        sums[at].add_(gradient.abs_())


def _live(inputs: Tensor) -> Tensor | None:
    """The columns that are not zero in all rows, and some that are, up to a multiple of ALIGNED."""
    live = (inputs.amax(0) != 0) | (inputs.amin(0) != 0)
    count = -(-int(live.sum()) // ALIGNED) * ALIGNED
    if count >= len(live):
        return None
    return torch.argsort(live, descending=True, stable=True)[:count].sort().values
