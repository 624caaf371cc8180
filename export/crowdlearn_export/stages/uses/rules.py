"""Calls of PyTorch that use parameters linearly, and the gradients of samples that follow from such a use.

A rule takes a call's arguments and gives a `Use`, or None if it knows no norm for these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.lowering.rules.convolution import columns_of
from crowdlearn_export.lowering.rules.rows import to_rows

from .apart import Batch, positions
from .terms import Looked, Outer, Own, Term

Terms = Callable[[Tensor, Tensor, Batch, Batch], Mapping[str, Term]]
"""A function from what entered and the errors of what left, with their batches, to terms by argument."""


class Use(NamedTuple):
    """A call: what it gives, what the gradients need of what entered, the arrays that it uses by argument,
    and their terms. In `front`, the batch is the first axis in any case.
    """

    out: Tensor
    read: Tensor
    arrays: Mapping[str, Tensor | None]
    terms: Terms
    front: bool = False


class Calls(Protocol):
    """The calls that a model makes, and the tensors that are arrays which learn."""

    def __call__(self, func: Any, *args: Any, **kwargs: Any) -> Any: ...

    def learns(self, value: Any) -> bool: ...


Rule = Callable[..., Use | None]


def linear(calls: Calls, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Use:
    """Apply to a dense layer, over any positions between: float32 [..., sources]."""

    def terms(x: Tensor, errors: Tensor, of_x: Batch, of_errors: Batch) -> Mapping[str, Term]:
        d = positions(of_errors.apart(errors))
        return {"weight": Outer(d, positions(of_x.apart(x))), "bias": Own(d.sum(1))}

    out = calls(F.linear, x, weight) if bias is None else calls(F.linear, x, weight, bias)
    return Use(out, x, {"weight": weight, "bias": bias}, terms)


def product(calls: Calls, x: Tensor, weight: Tensor) -> Use | None:
    """Apply to a product with a matrix on its right: float32 [..., sources]."""
    if weight.dim() != 2 or x.dim() < 2:
        return None

    def terms(x: Tensor, errors: Tensor, of_x: Batch, of_errors: Batch) -> Mapping[str, Term]:
        left, right = positions(of_x.apart(x)), positions(of_errors.apart(errors))
        return {"weight": Outer(left, right)}

    return Use(calls(torch.matmul, x, weight), x, {"weight": weight}, terms)


def convolution(
    calls: Calls,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Use | None:
    """Apply to a convolution over one or two axes: float32 [B, channels, ...]."""
    over = weight.dim() - 2
    if isinstance(padding, str) or x.dim() != weight.dim() or over not in (1, 2):
        return None
    called = torch.conv1d if over == 1 else torch.conv2d
    out = calls(called, x, weight, bias, stride, padding, dilation, groups)
    kernel = [1] * (2 - over) + list(weight.shape[2:])
    pairs = [_pair(each, over, usual) for each, usual in ((stride, 1), (padding, 0), (dilation, 1))]
    shape = tuple(weight.shape)

    def terms(x: Tensor, errors: Tensor, of_x: Batch, of_errors: Batch) -> Mapping[str, Term]:
        x, errors = (each.unsqueeze(2) if over == 1 else each for each in (x, errors))
        read, rows = columns_of(x, kernel, *pairs), to_rows(errors)
        read, rows = (_over_each(each, of_errors) for each in (read, rows))
        if groups > 1:
            of_weight: Term = Own(_grouped(read, rows, kernel, groups).reshape(-1, *shape))
        else:
            of_weight = Outer(rows, read, lambda own: _kernel_last(own, kernel).reshape(shape))
        return {"weight": of_weight, "bias": Own(rows.sum(1))}

    return Use(out, x, {"weight": weight, "bias": bias}, terms, front=True)


def layer_norm(
    calls: Calls,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Use:
    """Apply to scale and shift of a layer norm: float32 [..., *normalized_shape]."""
    return _affine(calls(F.layer_norm, x, normalized_shape, eps=eps), weight, bias)


def rms_norm(
    calls: Calls,
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Use:
    """Apply to the scale of a norm by the root of the mean square: float32 [..., *normalized_shape]."""
    return _affine(calls(F.rms_norm, x, normalized_shape, eps=eps), weight, None)


def group_norm(
    calls: Calls,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Use:
    """Apply to scale and shift of a group norm: float32 [B, channels, ...]."""
    return _affine(calls(F.group_norm, x, num_groups, eps=eps), weight, bias, channels=True)


def fixed_batch_norm(
    calls: Calls,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Use | None:
    """Apply to scale and shift of a batch norm whose statistics are fixed: float32 [B, channels, ...]."""
    if training:
        return None
    normal = calls(F.batch_norm, x, running_mean, running_var, None, None, False, momentum, eps)
    return _affine(normal, weight, bias, channels=True)


def embedding(
    calls: Calls,
    index: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Use | None:
    """Apply to rows that are looked up: int64 [B, ...]."""
    if max_norm is not None or scale_grad_by_freq:
        return None
    rows = weight.shape[0]
    padding = -1 if padding_idx is None else padding_idx % rows

    def terms(index: Tensor, errors: Tensor, of_index: Batch, of_errors: Batch) -> Mapping[str, Term]:
        numbers = of_index.apart(index)
        numbers = numbers.reshape(-1, prod(numbers.shape[1:]))
        return {"weight": Looked(numbers, positions(of_errors.apart(errors)), rows, padding)}

    return Use(calls(F.embedding, index, weight, padding_idx), index, {"weight": weight}, terms)


def expanded(calls: Calls, array: Tensor, *sizes: Any) -> Use:
    """Apply to an array that each sample gets, as a class token is: float32 [...]."""
    return _elementwise(calls(torch.Tensor.expand, array, *sizes), array, None)


def plus(calls: Calls, first: Any, second: Any) -> Use | None:
    """Apply to an array that is added to what comes of samples: float32 [...]."""
    array, other = _sides(calls, first, second)
    return None if array is None else _elementwise(calls(torch.add, other, array), array, None)


def times(calls: Calls, first: Any, second: Any) -> Use | None:
    """Apply to an array that multiplies what comes of samples, number by number: float32 [...]."""
    array, other = _sides(calls, first, second)
    return None if array is None else _elementwise(calls(torch.mul, other, array), array, other)


RULES: dict[str, Rule] = {
    "linear": linear,
    "matmul": product,
    "__matmul__": product,
    "conv1d": convolution,
    "conv2d": convolution,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "group_norm": group_norm,
    "batch_norm": fixed_batch_norm,
    "embedding": embedding,
    "expand": expanded,
    "add": plus,
    "__add__": plus,
    "__radd__": plus,
    "mul": times,
    "__mul__": times,
    "__rmul__": times,
}
"""The rules by the names of functions."""


def _pair(given: Any, over: int, usual: int) -> tuple[int, int]:
    """Return a convolution's setting for two axes, given that for the last one or two."""
    each = tuple(given) if isinstance(given, Sequence) else (given,) * over
    return (usual, *each)[-2:] if len(each) == 1 else (each[0], each[1])


def _over_each(rows: Tensor, batch: Batch) -> Tensor:
    """Join the rows [B * each, positions, D] of the maps that a sample has: [B, each * positions, D]."""
    return rows.reshape(-1, batch.each * rows.shape[1], rows.shape[2]) if batch.each else rows


def _kernel_last(own: Tensor, kernel: Sequence[int]) -> Tensor:
    """View gradients [..., h * w * channels], as columns have them, as [..., channels, h, w]."""
    return own.reshape(-1, *kernel, own.shape[-1] // prod(kernel)).permute(0, 3, 1, 2)


def _grouped(read: Tensor, rows: Tensor, kernel: Sequence[int], groups: int) -> Tensor:
    """Return the gradients of samples of a convolution in groups of channels: float32 [B * targets, channels
    of a group, h, w].
    """
    places, size = read.shape[1], prod(kernel)
    each = read.shape[2] // size // groups
    left = rows.reshape(-1, places, groups, rows.shape[2] // groups).permute(0, 2, 3, 1)
    right = read.reshape(-1, places, size, groups, each).permute(0, 3, 1, 2, 4)
    own = torch.bmm(left.reshape(-1, rows.shape[2] // groups, places), right.reshape(-1, places, size * each))
    return _kernel_last(own, kernel)


def _affine(normal: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels: bool = False) -> Use:
    """Return the use of scale and shift of what is normalised: of the last axes, or of channels."""
    out = normal
    inner = normal.dim() - 2 if channels else 0
    if weight is not None:
        out = out * weight.reshape(*weight.shape, *(1 for _ in range(inner)))
    if bias is not None:
        out = out + bias.reshape(*bias.shape, *(1 for _ in range(inner)))
    like = bias if weight is None else weight
    own = 0 if like is None else like.dim()

    def terms(normal: Tensor, errors: Tensor, of_x: Batch, of_errors: Batch) -> Mapping[str, Term]:
        n, d = of_x.apart(normal), of_errors.apart(errors)
        last = d.dim() - inner
        over = [axis for axis in range(1, d.dim()) if not last - own <= axis < last]
        scales, shifts = n * d, d
        return {
            name: Own(each.sum(over) if over else each)
            for name, each in (("weight", scales), ("bias", shifts))
        }

    return Use(out, normal, {"weight": weight, "bias": bias}, terms, front=channels)


def _sides(calls: Calls, first: Any, second: Any) -> tuple[Tensor | None, Tensor]:
    """Return the array that learns, and the other side; None if both do, or if the other is a number."""
    array, other = (first, second) if calls.learns(first) else (second, first)
    apart = isinstance(array, Tensor) and isinstance(other, Tensor) and not calls.learns(other)
    return (array if apart else None), other


def _elementwise(out: Tensor, array: Tensor, factor: Tensor | None) -> Use:
    """Return the use of an array that is broadcast over what left, times `factor` if there is one."""
    sizes = [1] * (out.dim() - array.dim()) + list(array.shape)
    read = out if factor is None else factor.expand(out.shape)

    def terms(factor_: Tensor, errors: Tensor, of_x: Batch, of_errors: Batch) -> Mapping[str, Term]:
        d = of_errors.apart(errors)
        d = d if factor is None else d * of_errors.apart(factor_)
        rest = of_errors.rest(sizes)
        over = [1 + axis for axis, size in enumerate(rest) if size == 1 and d.shape[1 + axis] != 1]
        own = d.sum(over) if over else d
        return {"array": Own(own.reshape(-1, *array.shape))}

    return Use(out, read, {"array": array}, terms)
