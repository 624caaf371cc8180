"""DP-SGD over slices: each piece computes one number a sample, and the clipped sum of its own weights.

A piece owns the weights that leave its neurons: columns of a dense map, input channels of a convolution. It
has what its neurons sent out and the errors that came back. From these its part of a sample's squared norm
follows, without any other piece's weights or activations. The parts are added where the loss is; the clip
factors go back with the errors; and each piece adds noise to its own sum.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from crowdlearn_export.errors import UnsupportedModule
from torch import Tensor, nn

from .ghost_norms import RULES, Clipped, check_apart, recorded

Cut = Sequence[float]
"""The places at which a layer's neurons are cut, as parts of it: 0, ..., 1."""


@dataclass(frozen=True)
class Piece:
    """One piece's view of a mini-batch: its part of squared norms [B], and the sums of its own weights by
    module: the columns [start, stop) of each.
    """

    squared: Tensor
    parts: Sequence[tuple[nn.Module, int, int, Clipped]]

    def summed(self, factors: Tensor) -> dict[tuple[nn.Parameter, int, int], Tensor]:
        """Return sums over samples of gradients times `factors` [B], by parameter and its columns.

        A bias has the columns (0, 0): it is the first piece's, whole.
        """
        sums: dict[tuple[nn.Parameter, int, int], Tensor] = {}
        for module, start, stop, clipped in self.parts:
            found = clipped(factors)
            weight, bias = module.weight, module.bias
            sums[weight, start, stop] = found[0]  # type: ignore[index]
            if start == 0 and isinstance(bias, nn.Parameter):
                sums[bias, 0, 0] = found[1]
        return sums


def pieces_of(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor, cut: Cut) -> list[Piece]:
    """Return what each piece computes of a mini-batch, of a network of dense maps and convolutions that is
    cut at `cut`. Inputs are float [B, ...].

    Raises UnsupportedModule, by name, if a module has weights that are not a map's.
    """
    check_apart(model)
    with recorded(model) as seen:
        total = loss(model(inputs)).sum()
    errors = torch.autograd.grad(total, [left for _, _, left in seen])
    pieces = []
    for first, last in itertools.pairwise(cut):
        squared, parts = torch.zeros(len(inputs), dtype=errors[0].dtype), []
        for (module, entered, _), error in zip(seen, errors, strict=True):
            if not isinstance(module, nn.Linear | nn.Conv2d) or getattr(module, "groups", 1) != 1:
                raise UnsupportedModule(f"{type(module).__name__} is not a map that slices cut; use simulate")
            width = entered.shape[1]
            start, stop = round(first * width), round(last * width)
            if start == stop:
                continue
            biased = start == 0 and module.bias is not None
            own = _without_bias(module, biased)
            part, clipped = RULES[type(module)](own, entered[:, start:stop], error)
            squared = squared + part
            parts.append((module, start, stop, clipped))
        pieces.append(Piece(squared, parts))
    return pieces


def _without_bias(module: nn.Module, biased: bool) -> nn.Module:
    """Return this map, or, if its bias is another piece's, one like it without."""
    if biased:
        return module
    alike = copy.copy(module)
    alike._parameters = {**module._parameters, "bias": None}
    return alike
