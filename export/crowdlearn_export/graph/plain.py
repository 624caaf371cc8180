"""Functions of PyTorch in words that the compiler knows: one-dimensional convolutions and pools as
two-dimensional ones of height 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule


def _wide(size: Any, usual: int) -> tuple[int, int]:
    """Return a one-dimensional size in two dimensions."""
    number = size[0] if isinstance(size, Sequence) and size else size
    return (usual, usual if number is None or number == () else int(number))


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Compute torch.conv1d. Signals are float32 [B, C, L]."""
    if padding == "same":
        span = _wide(dilation, 1)[1] * (weight.shape[2] - 1)
        if span % 2:
            raise UnsupportedModule("conv1d: padding='same' of an even kernel is lopsided; pad by numbers")
        padding = span // 2
    elif padding == "valid":
        padding = 0
    sizes = (_wide(stride, 1), _wide(padding, 0), _wide(dilation, 1))
    return F.conv2d(x.unsqueeze(2), weight.unsqueeze(2), bias, *sizes, groups).squeeze(2)


def max_pool1d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Compute torch.max_pool1d. Signals are float32 [B, C, L]."""
    if return_indices:
        raise UnsupportedModule("max_pool1d: return_indices is not possible")
    kernel = _wide(kernel_size, 1)
    steps = kernel if stride in (None, (), []) else _wide(stride, 1)
    pooled = F.max_pool2d(x.unsqueeze(2), kernel, steps, _wide(padding, 0), _wide(dilation, 1), ceil_mode)
    return pooled.squeeze(2)


def avg_pool1d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Compute torch.avg_pool1d. Signals are float32 [B, C, L]."""
    kernel = _wide(kernel_size, 1)
    steps = kernel if stride in (None, (), []) else _wide(stride, 1)
    pooled = F.avg_pool2d(x.unsqueeze(2), kernel, steps, _wide(padding, 0), ceil_mode, count_include_pad)
    return pooled.squeeze(2)


def adaptive_avg_pool1d(x: Tensor, output_size: Any) -> Tensor:
    """Compute torch.adaptive_avg_pool1d, into equal windows. Signals are float32 [B, C, L]."""
    parts = output_size[0] if isinstance(output_size, Sequence) else output_size
    if x.shape[2] % parts:
        raise UnsupportedModule(f"adaptive_avg_pool1d: {x.shape[2]} is not a whole multiple of {parts}")
    if parts == 1:
        return x.mean(2, keepdim=True)
    return avg_pool1d(x, x.shape[2] // parts)


def embedding_bag(
    codes: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Compute torch.nn.functional.embedding_bag of int64 [B, codes]: a bag for each sample."""
    plain = offsets is None and max_norm is None and not scale_grad_by_freq
    if not plain or mode == "max" or codes.dim() != 2:
        raise UnsupportedModule(
            "an embedding bag of mode sum or mean over [batch, codes] is possible, without offsets, max_norm "
            "and scale_grad_by_freq; use Embedding otherwise"
        )
    found = F.embedding(codes, weight)
    counted = None if padding_idx is None else (codes != padding_idx).to(weight.dtype).unsqueeze(2)
    if per_sample_weights is not None:
        found = found * per_sample_weights.unsqueeze(2)
    if counted is None:
        return found.mean(1) if mode == "mean" else found.sum(1)
    total = (found * counted).sum(1)
    return total / counted.sum(1).clamp(min=1) if mode == "mean" else total


def interpolate(
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Compute torch.nn.functional.interpolate of maps float32 [B, C, H, W], or signals [B, C, L]: PyTorch's
    own fixes the batch.
    """
    kind = {"nearest": "nearest", "bilinear": "linear", "linear": "linear"}.get(mode)
    if kind is None or antialias or x.dim() not in (3, 4):
        raise UnsupportedModule(
            f"interpolate of mode {mode!r} has no lowering; nearest and bilinear of maps are possible, and "
            "nearest and linear of signals"
        )
    maps = x.unsqueeze(2) if x.dim() == 3 else x
    axes = x.dim() - 2
    wanted = list(size) if isinstance(size, Sequence) else [size] * axes
    scales: list[float | None] = [None] * axes
    if size is None:
        given = scale_factor if isinstance(scale_factor, Sequence) else [scale_factor] * axes
        wanted = [int(int(x.shape[2 + axis]) * float(given[axis])) for axis in range(axes)]
        scales = [None if recompute_scale_factor else float(factor) for factor in given]
    wanted, scales = ([1, *wanted], [None, *scales]) if axes == 1 else (wanted, scales)
    if kind == "nearest":
        out = torch.ops.aten.upsample_nearest2d(maps, wanted, *scales)
    else:
        out = torch.ops.aten.upsample_bilinear2d(maps, wanted, bool(align_corners), *scales)
    found: Tensor = out.squeeze(2) if axes == 1 else out
    return found


PLAIN: dict[str, Callable[..., Any]] = {
    "conv1d": conv1d,
    "max_pool1d": max_pool1d,
    "_max_pool1d": max_pool1d,
    "avg_pool1d": avg_pool1d,
    "adaptive_avg_pool1d": adaptive_avg_pool1d,
    "embedding_bag": embedding_bag,
    "interpolate": interpolate,
}
"""The plain forms, by the name of the function."""
