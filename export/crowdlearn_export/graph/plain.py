"""Functions of PyTorch in words that the compiler knows, as one-dimensional convolutions and pools in
two-dimensional ones of height 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

from .recurrence import CELLS


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


def adaptive_max_pool(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Compute torch.nn.functional.adaptive_max_pool1d or 2d, into equal windows.

    Signals are float32 [B, C, L], maps [B, C, H, W].
    """
    if return_indices:
        raise UnsupportedModule("adaptive_max_pool: return_indices is not possible")
    maps = x.unsqueeze(2) if x.dim() == 3 else x
    sizes = [int(size) for size in maps.shape[2:]]
    asked = [*output_size] if isinstance(output_size, Sequence) else [output_size] * (x.dim() - 2)
    asked = [1, *asked] if x.dim() == 3 else asked
    wanted = [size if number is None else int(number) for size, number in zip(sizes, asked, strict=True)]
    if any(size % number for size, number in zip(sizes, wanted, strict=True)):
        raise UnsupportedModule(
            f"adaptive_max_pool: {sizes} is not a whole multiple of {wanted}; use MaxPool with a kernel size"
        )
    kernel = tuple(size // number for size, number in zip(sizes, wanted, strict=True))
    pooled = F.max_pool2d(maps, kernel, kernel)
    return pooled.squeeze(2) if x.dim() == 3 else pooled


def pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Compute torch.nn.functional.pad; what is repeated is put together from slices, since no phone scatters.

    Tensors are float32 [B, ...].
    """
    if mode == "constant":
        return F.pad(x, pad, mode, value)
    for number in range(len(pad) // 2):
        before, after = int(pad[2 * number]), int(pad[2 * number + 1])
        dim = x.dim() - 1 - number
        size = int(x.shape[dim])
        if min(before, after) < 0 or max(before, after) > (size - 1 if mode == "reflect" else size):
            raise UnsupportedModule(f"pad of {mode!r} by {list(pad)} does not fit {tuple(x.shape[1:])}")
        first, last = {
            "reflect": (range(before, 0, -1), range(size - 2, size - 2 - after, -1)),
            "replicate": ([0] * before, [size - 1] * after),
            "circular": (range(size - before, size), range(after)),
        }[mode]
        parts = [*(x.narrow(dim, at, 1) for at in first), x, *(x.narrow(dim, at, 1) for at in last)]
        x = torch.cat(parts, dim)
    return x


def bilinear(first: Tensor, second: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute torch.nn.functional.bilinear of float32 [B, ..., features], by a dense layer and a product."""
    outputs, left, right = weight.shape
    rows = F.linear(first.reshape(-1, left), weight.permute(0, 2, 1).reshape(outputs * right, left))
    rows = (rows.reshape(-1, outputs, right) * second.reshape(-1, 1, right)).sum(2)
    rows = rows if bias is None else rows + bias
    return rows.reshape(*first.shape[:-1], outputs)


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Compute torch.nn.functional.local_response_norm of maps or signals float32 [B, C, ...]."""
    rows = (x * x).reshape(-1, 1, x.shape[1], x[0, 0].numel())
    means = F.avg_pool2d(F.pad(rows, (0, 0, size // 2, (size - 1) // 2)), (size, 1), 1)
    return x / (means.reshape(x.shape) * alpha + k).pow(beta)


def _along(name: str) -> Callable[..., Any]:
    """Return torch.max or torch.min, which give values and places along an axis, of two functions that a
    program has. Where several values are equal, each gets a part of the gradient.
    """
    plain, values = getattr(torch, name), getattr(torch, f"a{name}")
    places, both = getattr(torch, f"arg{name}"), getattr(torch.return_types, name)

    def along(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        dim = args[0] if args else kwargs.get("dim")
        if not isinstance(dim, int):
            return plain(x, *args, **kwargs)
        keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
        return both((values(x, dim, keepdim), places(x, dim, keepdim)))

    return along


PLAIN: dict[str, Callable[..., Any]] = {
    **CELLS,
    "max": _along("max"),
    "min": _along("min"),
    "conv1d": conv1d,
    "max_pool1d": max_pool1d,
    "_max_pool1d": max_pool1d,
    "avg_pool1d": avg_pool1d,
    "adaptive_avg_pool1d": adaptive_avg_pool1d,
    "embedding_bag": embedding_bag,
    "interpolate": interpolate,
    "adaptive_max_pool1d": adaptive_max_pool,
    "_adaptive_max_pool1d": adaptive_max_pool,
    "adaptive_max_pool2d": adaptive_max_pool,
    "_adaptive_max_pool2d": adaptive_max_pool,
    "pad": pad,
    "bilinear": bilinear,
    "local_response_norm": local_response_norm,
}
"""The plain forms, by the name of the function."""
