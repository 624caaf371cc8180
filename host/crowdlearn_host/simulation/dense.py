"""The paper's chain of dense layers, forward and backward by hand: what autograd computes, in less time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

aten = torch.ops.aten


ALIGNED = 16
"""Floats of a first layer's row, when narrowed, are a multiple of this: products are fastest so."""


class DenseChain:
    """Plain SGD of (Linear, BatchNorm1d, ReLU) layers and a last Linear under mean cross entropy.

    `parameters` are the model's, in its order, the first one first in the vector of its floats. An input that
    is zero in every sample of a pass moves no weight: such columns of the first layer are left out.
    """

    def __init__(self, parameters: Sequence[Tensor], norms: Sequence[nn.BatchNorm1d]) -> None:
        self._parameters = parameters
        self._norms = norms

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

    def train(
        self,
        inputs: Tensor,
        labels: Tensor,
        batches: Sequence[slice],
        rate: float,
        accumulated: Sequence[Tensor],
    ) -> float:
        """One pass of SGD over `inputs` [N, sources] and int64 `labels` [N]; the loss summed over samples.

        Adds |gradient| to `accumulated`, tensors like the parameters, unless it is empty.
        """
        first = self._parameters[0]
        live = _live(inputs) if len(batches) > 2 else None
        if live is not None:
            inputs, first = inputs[:, live], first[:, live]
        parameters = [first, *self._parameters[1:]]
        gradients = [torch.zeros_like(parameter) for parameter in parameters] if accumulated else []
        sums = [torch.zeros_like(first), *accumulated[1:]] if accumulated else []
        loss = 0.0
        for batch in batches:
            x, y = inputs[batch], labels[batch]
            if accumulated:
                loss += len(y) * self.step(x, y, parameters, gradients, 1, 0)
                torch._foreach_add_(parameters, gradients, alpha=-rate)
                torch._foreach_abs_(gradients)
                torch._foreach_add_(sums, gradients)
            else:
                loss += len(y) * self.step(x, y, parameters, parameters, -rate, 1)
        if live is not None:
            self._parameters[0].index_copy_(1, live, first)
        if accumulated:
            columns = torch.arange(first.shape[1]) if live is None else live
            accumulated[0].index_add_(1, columns, sums[0])
        return loss

    def step(
        self,
        inputs: Tensor,
        labels: Tensor,
        parameters: Sequence[Tensor],
        into: Sequence[Tensor],
        scale: float,
        keep: float,
    ) -> float:
        """Makes every tensor of `into` keep * itself + scale * its gradient, and returns the mean loss.

        `parameters` and `into` are in the order of the model's parameters, and may be the same: that is a
        step of SGD. Inputs are [B, sources], labels int64 [B]; running statistics take the batch in.
        """
        saved = []
        x = inputs
        for at, norm in enumerate(self._norms):
            weight, bias, gain, shift = parameters[4 * at : 4 * at + 4]
            sums = torch.addmm(bias, x, weight.t())
            statistics = norm.running_mean, norm.running_var
            outputs, mean, inverse = torch.native_batch_norm(
                sums, gain, shift, *statistics, True, norm.momentum or 0.0, norm.eps
            )
            saved.append((x, sums, outputs.relu_(), mean, inverse))
            x = outputs
        logs = torch.log_softmax(torch.addmm(parameters[-1], x, parameters[-2].t()), 1)
        right = labels[:, None]
        loss = -logs.gather(1, right).mean().item()
        errors = logs.exp_()
        errors.scatter_add_(1, right, torch.full_like(right, -1, dtype=errors.dtype))
        errors.div_(len(labels))
        back = errors @ parameters[-2]
        _dense(into[-2], into[-1], errors, x, scale, keep)
        for at in reversed(range(len(self._norms))):
            norm, (x, sums, outputs, mean, inverse) = self._norms[at], saved[at]
            weight, _, gain, _ = parameters[4 * at : 4 * at + 4]
            statistics = norm.running_mean, norm.running_var
            errors, by_gain, by_shift = aten.native_batch_norm_backward(
                aten.threshold_backward(back, outputs, 0),
                *(sums, gain, *statistics, mean, inverse, True, norm.eps, [True, True, True]),
            )
            if at:
                back = errors @ weight
            _dense(into[4 * at], into[4 * at + 1], errors, x, scale, keep)
            into[4 * at + 2].mul_(keep).add_(by_gain, alpha=scale)
            into[4 * at + 3].mul_(keep).add_(by_shift, alpha=scale)
        return loss


def _dense(weight: Tensor, bias: Tensor, errors: Tensor, inputs: Tensor, scale: float, keep: float) -> None:
    weight.addmm_(errors.t(), inputs, beta=keep, alpha=scale)
    bias.mul_(keep).add_(errors.sum(0), alpha=scale)


def _live(inputs: Tensor) -> Tensor | None:
    """The columns that are not zero in all rows, and some that are, up to a multiple of ALIGNED."""
    live = (inputs != 0).any(0)
    count = -(-int(live.sum()) // ALIGNED) * ALIGNED
    if count >= len(live):
        return None
    return torch.argsort(live, descending=True, stable=True)[:count].sort().values
