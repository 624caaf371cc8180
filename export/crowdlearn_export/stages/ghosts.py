"""Squared norms of the gradient of each sample, for steps of DP-SGD, without the gradients of dense layers.

The gradient of a linear map for one sample is a sum over positions of outer products of what entered and what
came back. Its norm follows from inner products of both (Goodfellow, 2015; Li, Tramer, Liang, Hashimoto,
2022), or from the sample's gradient itself where that is smaller. The sum of clipped gradients then is that
of errors times the clip factors: no second pass is needed (Bu, Wang, Zha, Karypis, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crowdlearn_export.graph.layers import run_edge
from crowdlearn_export.graph.neuron_graph import Edge, Layer, NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.lowering.rules.convolution import columns_of
from crowdlearn_export.lowering.rules.rows import to_rows

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux
KINDS = ("dense", "conv")
SMALL = 1e-24
"""A squared norm in place of 0."""
CHUNK = 16
"""Samples whose gradients are in memory at a time, where they are computed one by one."""


class Ghost(NamedTuple):
    """The squared norm [B] of each sample's gradient of one array; and the sum of these gradients times
    factors [B], in the array's shape.
    """

    squared: Tensor
    summed: Callable[[Tensor], Tensor]


def without_ghost(graph: NeuronGraph) -> str:
    """Return an array of a network of neurons that learns, and is no weight of a dense layer or convolution
    and no bias of sums; "" if there is none.
    """
    known = {f"{edge.module}.weight" for edge in graph.edges if edge.kind in KINDS}
    known |= {f"{op.module}.bias" for layer in graph.layers for op in _biases(layer)}
    return next((array.name for array in array_specs(graph) if array.trained and array.name not in known), "")


def ghosts_of(
    names: Sequence[str],
    edges: Sequence[Edge],
    entered: Tensor,
    errors: Sequence[Tensor],
    of_sums: Tensor,
    arrays: Mapping[str, Tensor],
) -> list[Ghost]:
    """Return those of a layer's arrays, by `names`. Its outputs, and the errors `of_sums` of its sums, are
    [B, neurons, ...]; `errors` came back on `edges`.
    """
    weights = {f"{each[0].module}.weight": each for each in zip(edges, errors, strict=True)}
    return [
        _of_weights(weights[name][0], entered, weights[name][1], arrays[name])
        if name in weights
        else _of_bias(of_sums)
        for name in names
    ]


def returned_on(edge: Edge, x: Tensor, arrays: Mapping[str, Tensor], errors: Tensor) -> Tensor:
    """Return the errors of outputs [B, neurons, ...] that those of an edge's products give."""
    _, vjp = _vjp(lambda x: run_edge(edge, x, arrays.get(f"{edge.module}.weight")), x)
    found: Tensor = vjp(errors)[0]
    return found


def added(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of one tensor or more, all of one shape [...]."""
    total, *more = values
    for each in more:
        total = total + each
    return total


def square(values: Tensor) -> Tensor:
    """Return the sum of squares of each sample's numbers, [B], given [B, ...]."""
    rows = values.reshape(values.shape[0], -1)
    return (rows * rows).sum(1)


def clipped(squared: Tensor, clip: Tensor) -> Tensor:
    """Return the factors [B] that clip gradients of these squared norms [B] to the norm `clip`, a scalar."""
    return (clip / squared.clamp(min=SMALL).sqrt()).clamp(max=1.0)


def by_autograd(
    objective: Callable[..., Tensor],
    weights: Sequence[Tensor],
    samples: Sequence[Tensor],
    factors_of: Callable[[Tensor, Tensor], Tensor],
    factors: Tensor,
) -> tuple[list[Tensor], Tensor]:
    """Return the sums of samples' gradients times what `factors_of` makes of squared norms [B] and `factors`
    [B], and these squared norms; from whole gradients of each sample, some at a time.

    `objective` takes the weights and one of each of `samples` [B, ...], with a batch of 1.
    """
    sums, squares = [torch.zeros_like(weight) for weight in weights], []

    def of_one(own: Sequence[Tensor], *sample: Tensor) -> Tensor:
        return objective(own, *(each.unsqueeze(0) for each in sample)).sum()

    each = torch.func.vmap(torch.func.grad(of_one), in_dims=(None, *(0 for _ in samples)))
    parts = (torch.split(values, CHUNK) for values in (factors, *samples))
    for part in zip(*parts, strict=True):
        found = each([weight.detach() for weight in weights], *part[1:])
        squared = sum((own.square().flatten(1).sum(1) for own in found), torch.zeros_like(part[0]))
        squares.append(squared)
        for total, own in zip(sums, found, strict=True):
            total += torch.tensordot(factors_of(squared, part[0]), own, dims=1)
    return sums, torch.cat(squares)


def _biases(layer: Layer) -> list[Any]:
    return list(takewhile(lambda op: op.kind == "bias", layer.ops))


def _of_bias(errors: Tensor) -> Ghost:
    own = to_rows(errors).sum(1) if errors.dim() == 4 else errors.reshape(*errors.shape[:2], -1).sum(2)
    return Ghost(square(own), lambda factors: (factors.unsqueeze(0) @ own).reshape(-1))


def _of_weights(edge: Edge, x: Tensor, errors: Tensor, weight: Tensor) -> Ghost:
    def summed(factors: Tensor) -> Tensor:
        _, vjp = _vjp(lambda own: run_edge(edge, x, own), weight)
        found: Tensor = vjp(errors * factors.reshape(-1, *(1 for _ in errors.shape[1:])))[0]
        return found

    if edge.kind == "dense":
        return Ghost(square(x) * square(errors), summed)
    read, rows = columns_of(x, weight.shape[2:], **_geometry(edge)), to_rows(errors)
    places, sources, targets = rows.shape[1], read.shape[2], rows.shape[2]
    if places * (sources + targets) <= sources * targets:
        products = torch.bmm(read, read.transpose(1, 2)) * torch.bmm(rows, rows.transpose(1, 2))
        return Ghost(products.sum((1, 2)).clamp(min=0.0), summed)  # rounding may leave less than nothing
    own = torch.bmm(rows.transpose(1, 2), read).reshape(-1, targets * sources)

    def summed_up(factors: Tensor) -> Tensor:
        found = (factors.unsqueeze(0) @ own).reshape(targets, *weight.shape[2:], weight.shape[0])
        return found.permute(3, 0, 1, 2)

    return Ghost(square(own), summed_up)


def _geometry(edge: Edge) -> dict[str, Any]:
    return {name: edge.attributes[name] for name in ("stride", "padding", "dilation")}
