"""The paper's chain of dense layers, forward and backward by hand: what autograd computes, in less time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

aten = torch.ops.aten

ALIGNED = 16
"""Floats of a sample, when narrowed, are a multiple of this: products are fastest so."""
Fed = tuple[Tensor, Tensor, Sequence[slice]]
"""What a dominator feeds in a pass: inputs [N, sources], int64 labels [N], and its mini-batches."""


class DenseChain:
    """Plain SGD of (Linear, BatchNorm1d, ReLU) layers and a last Linear under mean cross entropy.

    `parameters` are the model's, in its order. While it trains, weights lie transposed, [sources, targets]:
    products of few samples are faster so, and an input's weights are one row. An input that is zero in every
    sample of a pass moves no weight: its row is left out of the pass.
    """

    def __init__(self, parameters: Sequence[Tensor], norms: Sequence[nn.BatchNorm1d]) -> None:
        self._norms = norms
        self._outside = [parameter for parameter in parameters if parameter.dim() == 2]
        self._vectors = [parameter for parameter in parameters if parameter.dim() == 1]
        self._weights = [torch.empty_like(weight.t().contiguous()) for weight in self._outside]
        self._gradients = [torch.empty_like(weight) for weight in self._weights]

    @classmethod
    def of(cls, model: nn.Module, parameters: Sequence[Tensor]) -> DenseChain | None:
        """The chain that `model` is, or None where it is another network."""
        layers = list(model) if isinstance(model, nn.Sequential) else []
        kinds = [type(layer) for layer in layers]
        hidden = len(layers) // 3
        if not hidden or kinds != [*(nn.Linear, nn.BatchNorm1d, nn.ReLU) * hidden, nn.Linear]:
            return None
        norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
        plain = all(n.affine and n.track_running_stats and n.momentum is not None for n in norms)
        biased = all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear))
        return cls(parameters, norms) if plain and biased else None

    def train(self, passes: Iterable[Fed], rate: float, accumulated: Sequence[Tensor]) -> float:
        """SGD through all `passes`, in place; the loss summed over samples.

        Adds |gradient| to `accumulated`, tensors like the parameters, unless it is empty.
        """
        for weight, outside in zip(self._weights, self._outside, strict=True):
            weight.copy_(outside.t())
        sums = [torch.zeros_like(weight) for weight in self._weights] if accumulated else []
        vector_sums = [total for total in accumulated if total.dim() == 1]
        loss = sum(self._pass(*fed, rate, sums, vector_sums) for fed in passes)
        for weight, outside in zip(self._weights, self._outside, strict=True):
            outside.copy_(weight.t())
        for total, outside in zip(sums, (t for t in accumulated if t.dim() == 2), strict=True):
            outside.add_(total.t())
        return loss

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
            outputs, mean, inverse = torch.native_batch_norm(
                *(entered, gain, shift, norm.running_mean, norm.running_var),
                *(True, norm.momentum or 0.0, norm.eps),
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
            errors, by_gain, by_shift = aten.native_batch_norm_backward(
                *(aten.threshold_backward(back, outputs, 0), entered, vectors[3 * at + 1]),
                *(norm.running_mean, norm.running_var, mean, inverse, True, norm.eps, [True, True, True]),
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
