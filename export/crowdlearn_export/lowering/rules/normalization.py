"""Batch, group and layer normalisation, written out."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from crowdlearn_export.errors import LoweringError


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute aten.native_batch_norm: output, mean and 1/std of the batch; in training it moves the running
    statistics. Maps are float32 [B, C, ...].
    """
    if not training:
        assert running_mean is not None
        assert running_var is not None
        invstd = torch.rsqrt(running_var + eps)
        out = (x - _as_channel(running_mean, x)) * _as_channel(_times(invstd, weight), x)
        return _plus(out, bias, x), x.new_empty(0), x.new_empty(0)
    count = _count(x)
    mean = _channel_sum(x) / count
    centred = x - _as_channel(mean, x)
    var = _channel_sum(centred * centred) / count
    invstd = torch.rsqrt(var + eps)
    out = centred * _as_channel(_times(invstd, weight), x)
    if running_mean is not None:
        running_mean.copy_(running_mean * (1 - momentum) + mean * momentum)
    if running_var is not None:
        running_var.copy_(running_var * (1 - momentum) + var * (count / (count - 1)) * momentum)
    return _plus(out, bias, x), mean, invstd


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute aten.native_batch_norm_backward, all three gradients. Maps are float32 [B, C, ...]."""
    if train:
        assert save_mean is not None
        assert save_invstd is not None
        mean, invstd = save_mean, save_invstd
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, invstd = running_mean, torch.rsqrt(running_var + eps)
    centred = x - _as_channel(mean, x)
    db = _channel_sum(grad)
    dw = _channel_sum(grad * centred) * invstd
    inner = grad
    if train:
        count = _count(x)
        inner = grad - _as_channel(db / count, x) - centred * _as_channel(dw * invstd / count, x)
    return inner * _as_channel(_times(invstd, weight), x), dw, db


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute aten.native_layer_norm: output, mean and 1/std over the last dimensions.

    Tensors are float32 [..., D].
    """
    dims = list(range(x.dim() - len(shape), x.dim()))
    normal, mean, invstd = _normalise(x, dims, eps)
    out = _times(normal, weight)
    return (out if bias is None else out + bias), mean, invstd


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute aten.native_layer_norm_backward, all three gradients. Tensors are float32 [..., D]."""
    inner = list(range(x.dim() - len(shape), x.dim()))
    outer = list(range(x.dim() - len(shape)))
    normal = (x - mean) * invstd
    dx = _normalise_backward(_times(grad, weight), normal, invstd, inner)
    if not outer:
        return dx, grad * normal, grad
    return dx, (grad * normal).sum(outer), grad.sum(outer)


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    size: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute aten.native_group_norm: output, mean and 1/std [B, groups]."""
    normal, mean, invstd = _normalise(x.reshape(batch, groups, -1), [2], eps)
    out = normal.reshape(x.shape)
    out = out if weight is None else out * _as_channel(weight, x)
    return _plus(out, bias, x), mean.reshape(batch, groups), invstd.reshape(batch, groups)


def group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    batch: int,
    channels: int,
    size: int,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute aten.native_group_norm_backward, all three gradients. Maps are float32 [B, C, ...]."""
    spread = invstd.reshape(batch, groups, 1)
    normal = (x.reshape(batch, groups, -1) - mean.reshape(batch, groups, 1)) * spread
    inner = grad if weight is None else grad * _as_channel(weight, x)
    dx = _normalise_backward(inner.reshape(batch, groups, -1), normal, spread, [2]).reshape(x.shape)
    return dx, _channel_sum(grad * normal.reshape(x.shape)), _channel_sum(grad)


def vector_norm(
    x: Tensor,
    order: float = 2,
    dim: Sequence[int] | int | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute aten.linalg_vector_norm of order 1 or 2. Tensors are float32 [...]."""
    if order not in (1, 2):
        raise LoweringError(f"a norm of order {order} has no lowering; use order 1 or 2")
    dims = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return torch.abs(x).sum(dims, keepdim) if order == 1 else torch.sqrt((x * x).sum(dims, keepdim))


def variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Compute aten.var.correction over dimensions of known size. Tensors are float32 [...]."""
    dims = list(range(x.dim())) if dim is None else list(dim)
    count = prod(x.shape[each] for each in dims)
    if not isinstance(count, int):
        raise LoweringError("a variance over the batch has no lowering; use a batch norm")
    centred = x - x.mean(dims, keepdim=True)
    total = (centred * centred).sum(dims, keepdim)
    return total * (1 / max(count - (1 if correction is None else correction), 0))


def deviation(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Compute aten.std.correction over dimensions of known size. Tensors are float32 [...]."""
    return torch.sqrt(variance(x, dim, correction=correction, keepdim=keepdim))


def _normalise(x: Tensor, dims: list[int], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    invstd = torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
    return centred * invstd, mean, invstd


def _normalise_backward(grad: Tensor, normal: Tensor, invstd: Tensor, dims: list[int]) -> Tensor:
    mean = grad.mean(dims, keepdim=True)
    along = (grad * normal).mean(dims, keepdim=True)
    return (grad - mean - normal * along) * invstd


def _times(x: Tensor, weight: Tensor | None) -> Tensor:
    return x if weight is None else x * weight


def _plus(out: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return out if bias is None else out + _as_channel(bias, x)


def _as_channel(value: Tensor, x: Tensor) -> Tensor:
    """View [C] so as to broadcast over `x` [B, C, ...]."""
    return value.reshape([1, -1] + [1] * (x.dim() - 2))


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum([0, *range(2, x.dim())])


def _count(x: Tensor) -> Tensor:
    """Return how many values a channel has, as a tensor: the batch is known only when the program runs."""
    return x.new_ones(x.shape[0]).sum() * float(x.numel() // (x.shape[0] * x.shape[1]))
