"""Pooling and its gradients over gathered rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .elementwise import positive
from .rows import Window, from_rows, gather, reading_table, scatter, tap_tables, to_rows, windows

LOWEST = torch.finfo(torch.float32).min


def max_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute aten.max_pool2d_with_indices: the maximum over the taps; the indices are what the gradient rule
    does without. Maps are float32 [B, C, H, W].
    """
    vertical, horizontal = pool_windows(x, kernel, stride, padding, dilation, ceil_mode)
    best, _ = _maximum(to_rows(x), vertical, horizontal)
    out = from_rows(best, vertical.outputs, horizontal.outputs)
    return out, torch.empty_like(out, dtype=torch.int64)


def max_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Compute aten.max_pool2d_with_indices_backward: each gradient goes to the first tap that equals the
    maximum.

    Maps are float32 [B, C, H, W].
    """
    vertical, horizontal = pool_windows(x, kernel, stride, padding, dilation, ceil_mode)
    best, taps = _maximum(to_rows(x), vertical, horizontal)
    left = to_rows(grad)
    shares = []
    for tap in taps[:-1]:
        passed = left * positive(best - tap)
        shares.append(left - passed)
        left = passed
    shares.append(left)
    # Rows come tap by tap, [KH * KW, OH * OW]; the reading table has the taps innermost.
    table = reading_table(vertical, horizontal).reshape(-1, len(taps)).T.reshape(-1)
    size = vertical.inputs * horizontal.inputs
    return from_rows(scatter(torch.cat(shares, 1), table, size), vertical.inputs, horizontal.inputs)


def avg_pool2d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Compute aten.avg_pool2d: the sum over each window's rows, scaled. Maps are float32 [B, C, H, W]."""
    vertical, horizontal = pool_windows(x, kernel, stride, padding, (1,), ceil_mode)
    size = vertical.outputs * horizontal.outputs
    taps = gather(to_rows(x), reading_table(vertical, horizontal)).reshape(
        -1, size, _taps(vertical, horizontal), x.shape[1]
    )
    rows = _scaled(taps.sum(2), vertical, horizontal, count_include_pad, divisor_override)
    return from_rows(rows, vertical.outputs, horizontal.outputs)


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Compute aten.avg_pool2d_backward: every position adds the scaled gradients of the windows it is in.

    Maps are float32 [B, C, H, W].
    """
    vertical, horizontal = pool_windows(x, kernel, stride, padding, (1,), ceil_mode)
    rows = _scaled(to_rows(grad), vertical, horizontal, count_include_pad, divisor_override)
    table, size = reading_table(vertical, horizontal), vertical.inputs * horizontal.inputs
    spread = scatter(rows, table, size, repeat=_taps(vertical, horizontal))
    return from_rows(spread, vertical.inputs, horizontal.inputs)


def adaptive_avg_pool2d(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Compute aten._adaptive_avg_pool2d: a plain average pool if the map divides evenly, else products with
    the shares of each window. Maps are float32 [B, C, H, W].
    """
    height, width = (int(s) for s in output_size)
    if kernel := _even_kernel(x.shape[2:], (height, width)):
        return avg_pool2d(x, kernel, kernel)
    return _along_both(x, _shares(int(x.shape[2]), height), _shares(int(x.shape[3]), width))


def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Compute aten._adaptive_avg_pool2d_backward: every position adds its shares of the windows it is in.

    Maps are float32 [B, C, H, W].
    """
    if kernel := _even_kernel(x.shape[2:], grad.shape[2:]):
        return avg_pool2d_backward(grad, x, kernel, kernel, (0,), False, True, None)
    vertical, horizontal = (_shares(int(x.shape[d]), int(grad.shape[d])) for d in (2, 3))
    return _along_both(grad, vertical.T, horizontal.T)


def _shares(inputs: int, outputs: int) -> npt.NDArray[np.float32]:
    """Return how much of every input each output of an adaptive average pool takes, along one axis. [outputs,
    inputs].
    """
    start = np.arange(outputs) * inputs // outputs
    stop = -(-(np.arange(outputs) + 1) * inputs // outputs)
    position = np.arange(inputs)
    inside = (position >= start[:, None]) & (position < stop[:, None])
    return (inside / (stop - start)[:, None]).astype(np.float32)


def _along_both(x: Tensor, vertical: npt.NDArray[np.float32], horizontal: npt.NDArray[np.float32]) -> Tensor:
    """Multiply the height of [B, C, H, W] by `vertical` and its width by `horizontal`."""
    for matrix in (horizontal, vertical):
        weight = torch.from_numpy(np.ascontiguousarray(matrix)).to(x.dtype)
        rows = torch.nn.functional.linear(x.reshape(-1, x.shape[3]), weight)
        x = rows.reshape(*x.shape[:3], weight.shape[0]).permute(0, 1, 3, 2)
    return x


def pool_windows(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[Window, Window]:
    """Return the windows of a pool over a map [B, C, H, W]."""
    size, step, border, spacing = (_pair(v) for v in (kernel, stride or kernel, padding, dilation))
    outputs = []
    for i in (0, 1):
        inputs = int(x.shape[2 + i])
        free = inputs + 2 * border[i] - spacing[i] * (size[i] - 1) - 1
        count = (-(-free // step[i]) if ceil_mode else free // step[i]) + 1
        # A window that would start in the padding on the far side is left out, as in PyTorch.
        outputs.append(count - 1 if ceil_mode and (count - 1) * step[i] >= inputs + border[i] else count)
    return windows(x.shape[2:], outputs, size, step, border, spacing)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (int(value[0]), int(value[-1]))


def _taps(vertical: Window, horizontal: Window) -> int:
    return vertical.size * horizontal.size


def _maximum(rows: Tensor, vertical: Window, horizontal: Window) -> tuple[Tensor, list[Tensor]]:
    taps = [gather(rows, table, LOWEST) for table in tap_tables(vertical, horizontal)]
    best = taps[0]
    for tap in taps[1:]:
        best = torch.maximum(best, tap)
    return best, taps


def _scaled(
    rows: Tensor, vertical: Window, horizontal: Window, count_include_pad: bool, divisor_override: int | None
) -> Tensor:
    """Divide `rows` by what PyTorch divides each window by: its taps, or those inside the map or its
    padding.
    """
    if divisor_override is not None:
        return rows * (1 / divisor_override)
    counts = []
    for axis in (vertical, horizontal):
        if count_include_pad:
            start = np.arange(axis.outputs) * axis.stride
            counts.append(np.minimum(axis.size, axis.inputs + 2 * axis.padding - start))
        else:
            counts.append((axis.reads >= 0).sum(1))
    divisor = np.outer(*counts).reshape(-1, 1)
    if divisor.min() == divisor.max():
        return rows * (1 / float(divisor[0, 0]))
    return rows * torch.from_numpy((1 / divisor).astype(np.float32))


def _even_kernel(inputs: Sequence[int], outputs: Sequence[int]) -> tuple[int, int] | None:
    """Return the window of an adaptive pool where all are equal."""
    sizes = [divmod(int(i), int(o)) for i, o in zip(inputs, outputs, strict=True)]
    return None if any(rest for _, rest in sizes) else (sizes[0][0], sizes[1][0])
