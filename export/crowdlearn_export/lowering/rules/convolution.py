"""Convolution and its gradients as matrix products over gathered rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crowdlearn_export.errors import LoweringError

from .depthwise import depthwise, depthwise_dw, depthwise_dx
from .rows import Window, flatten, from_rows, gather, reading_table, scatter, to_rows, windows

FEW = 4
"""Channels up to which a row is so short that copying it costs mostly the call."""

NARROW = 64
"""Channels up to which a map is so large beside its products that nine times the map costs more than them."""


def convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Compute aten.convolution: columns of input rows times the kernel; depthwise ones are in `depthwise`.

    Maps are float32 [B, C, H, W], kernels float32 [O, C, h, w].
    """
    if x.dim() == 3:
        flat = convolution(
            x.unsqueeze(2),
            weight.unsqueeze(2),
            bias,
            (1, *stride),
            (0, *padding),
            (1, *dilation),
            transposed,
            (0, *output_padding),
            groups,
        )
        return flat.squeeze(2)
    _check(weight)
    if transposed:
        each = _transposed(x, weight, stride, padding, dilation, output_padding)
        entered = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        out = _join([_dense_dx(part, kernel, *each) for part, kernel in entered], 1)
        return out if bias is None else out + bias.reshape(1, -1, 1, 1)
    vertical, horizontal = _windows(x, weight.shape[2:], stride, padding, dilation)
    size = vertical.outputs, horizontal.outputs
    if groups > 1 and groups == x.shape[1] == weight.shape[0]:
        return depthwise(x, weight, bias, vertical, horizontal)
    if groups > 1:
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), _chunks(bias, groups), strict=True)
        rows = [_dense(p, w, b, vertical, horizontal) for p, w, b in parts]
        return from_rows(torch.cat(rows, 1), *size)
    return from_rows(_dense(x, weight, bias, vertical, horizontal), *size)


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Compute aten.convolution_backward: the gradients of input, kernel and bias that `output_mask` asks for.

    Maps are float32 [B, C, H, W], kernels float32 [O, C, h, w].
    """
    if x.dim() == 3:
        dx, dw, db = convolution_backward(
            grad.unsqueeze(2),
            x.unsqueeze(2),
            weight.unsqueeze(2),
            bias_sizes,
            (1, *stride),
            (0, *padding),
            (1, *dilation),
            transposed,
            (0, *output_padding),
            groups,
            output_mask,
        )
        return (None if dx is None else dx.squeeze(2)), (None if dw is None else dw.squeeze(2)), db
    _check(weight)
    dx = dw = db = None
    if output_mask[2]:
        db = to_rows(grad).reshape(-1, grad.shape[1]).sum(0)
    if transposed:
        each = _transposed(x, weight, stride, padding, dilation, output_padding)
        size, parts = (int(x.shape[2]), int(x.shape[3])), grad.chunk(groups, 1)
        if output_mask[0]:
            kernels = zip(parts, weight.chunk(groups), strict=True)
            dx = from_rows(_join([_dense(part, kernel, None, *each) for part, kernel in kernels], 1), *size)
        if output_mask[1]:
            pairs = zip(x.chunk(groups, 1), parts, strict=True)
            dw = _join([_dense_dw(entered, part, *each) for entered, part in pairs], 0)
        return dx, dw, db
    vertical, horizontal = _windows(x, weight.shape[2:], stride, padding, dilation)
    if groups > 1 and groups == x.shape[1] == weight.shape[0]:
        if output_mask[0]:
            dx = depthwise_dx(grad, weight, vertical, horizontal)
        if output_mask[1]:
            dw = depthwise_dw(grad, x, vertical, horizontal)
        return dx, dw, db
    grads, inputs, weights = grad.chunk(groups, 1), x.chunk(groups, 1), weight.chunk(groups)
    if output_mask[0]:
        dx = _join([_dense_dx(g, w, vertical, horizontal) for g, w in zip(grads, weights, strict=True)], 1)
    if output_mask[1]:
        dw = _join([_dense_dw(g, p, vertical, horizontal) for g, p in zip(grads, inputs, strict=True)], 0)
    return dx, dw, db


def columns_of(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """Return what each place of a convolution by a kernel [h, w] reads of maps float32 [B, C, H, W]: float32
    [B, places, h * w * C].
    """
    vertical, horizontal = _windows(x, kernel, stride, padding, dilation)
    columns = _columns(x, vertical, horizontal)
    return columns.reshape(-1, vertical.outputs * horizontal.outputs, columns.shape[1])


def _check(weight: Tensor) -> None:
    if weight.dim() != 4:
        raise LoweringError(
            f"a convolution over {weight.dim() - 2} dimensions has no lowering; use Conv1d or Conv2d"
        )


def _windows(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Window, Window]:
    stride, padding, dilation = ((v[0], v[-1]) for v in (stride, padding, dilation))  # one may stand for both
    size = [int(s) for s in kernel]
    reach = [dilation[i] * (size[i] - 1) for i in (0, 1)]
    outputs = [(int(x.shape[2 + i]) + 2 * padding[i] - reach[i] - 1) // stride[i] + 1 for i in (0, 1)]
    return windows(x.shape[2:], outputs, size, stride, padding, dilation)


def _transposed(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    output_padding: Sequence[int],
) -> tuple[Window, Window]:
    """Return the windows of the convolution of which a transposed one is the gradient of the input."""
    stride, padding, dilation, more = ((v[0], v[-1]) for v in (stride, padding, dilation, output_padding))
    size = [int(s) for s in weight.shape[2:]]
    outputs = [int(s) for s in x.shape[2:]]
    inputs = [
        (outputs[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (size[i] - 1) + more[i] + 1
        for i in (0, 1)
    ]
    return windows(inputs, outputs, size, stride, padding, dilation)


def _chunks(bias: Tensor | None, groups: int) -> Sequence[Tensor | None]:
    return [None] * groups if bias is None else bias.chunk(groups)


def _join(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _columns(x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """Gather columns: [B, C, H, W] -> [B * OH * OW, KH * KW * C]; forward and weight gradient share them."""
    columns = vertical.size * horizontal.size * x.shape[1]
    if x.shape[1] > FEW or horizontal.size == 1:
        return gather(to_rows(x), reading_table(vertical, horizontal)).reshape(-1, columns)
    # Few channels make short copies: first the taps along the width, then rows of them along the height.
    height, width = vertical.inputs, horizontal.outputs
    across = np.append(
        flatten(np.arange(height)[:, None, None], horizontal.reads[None], (height, horizontal.inputs)),
        np.full(horizontal.size, height * horizontal.inputs, np.int32),
    )
    rows = gather(to_rows(x), across).reshape(-1, height * width + 1, horizontal.size * x.shape[1])
    down = flatten(vertical.reads[:, None], np.arange(width)[None, :, None], (height, width))
    return gather(rows, down).reshape(-1, columns)


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None, vertical: Window, horizontal: Window) -> Tensor:
    if not _apart(x.shape[1], weight.shape[0], vertical):
        columns = _columns(x, vertical, horizontal)
        kernel = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        return torch.nn.functional.linear(columns, kernel, bias)
    size = vertical.outputs, horizontal.outputs
    kernel = weight.permute(3, 1, 2, 0).reshape(-1, vertical.size * weight.shape[0])
    columns = _across(x, horizontal.reads)
    out = _down(columns @ kernel, vertical.read_by, size).reshape(-1, weight.shape[0])
    return out if bias is None else out + bias


def _dense_dw(grad: Tensor, x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    channels, out_channels = x.shape[1], grad.shape[1]
    if not _apart(channels, out_channels, vertical):
        rows, columns = to_rows(grad).reshape(-1, out_channels), _columns(x, vertical, horizontal)
        # The narrower operand is the one to be transposed.
        dw = (columns.t() @ rows).t() if columns.shape[1] < out_channels else rows.t() @ columns
        return dw.reshape(out_channels, vertical.size, horizontal.size, channels).permute(0, 3, 1, 2)
    dw = _along(grad, vertical.read_by).t() @ _across(x, horizontal.reads)
    return dw.reshape(vertical.size, out_channels, horizontal.size, channels).permute(1, 3, 0, 2)


def _in_place(window: Window) -> bool:
    """Return whether every place reads the position that it is at."""
    return window.size == window.stride == 1 and window.padding == 0


def _apart(channels: int, outputs: int, vertical: Window) -> bool:
    """Return whether taps along the width become columns and those along the height results to be added: KW
    and KH times the map instead of KH * KW times, for rows that are all read by as many outputs.
    """
    return channels > FEW and max(channels, outputs) <= NARROW and vertical.stride == 1 < vertical.size


def _across(x: Tensor, reads: npt.NDArray[np.int64]) -> Tensor:
    """Return columns along the width alone, of all rows of the map and of one position of zeros: [B, C, H, W]
    -> [B * (H * places + 1), taps * C]; `reads` [places, taps] tells what a place reads.
    """
    height, width = int(x.shape[2]), int(x.shape[3])
    table = flatten(np.arange(height)[:, None, None], reads[None], (height, width))
    nothing = np.full(reads.shape[1], height * width, np.int32)
    return gather(to_rows(x), np.append(table, nothing)).reshape(-1, reads.shape[1] * x.shape[1])


def _along(x: Tensor, read_by: npt.NDArray[np.int64]) -> Tensor:
    """Return columns along the height alone, and of one position of zeros: [B, C, H, W] -> [B * (rows * W +
    1), taps * C]; `read_by` [rows, taps] tells which row of the map reads a row.
    """
    height, width = int(x.shape[2]), int(x.shape[3])
    table = flatten(read_by[:, None, :], np.arange(width)[None, :, None], (height, width))
    nothing = np.full(read_by.shape[1], height * width, np.int32)
    return gather(to_rows(x), np.append(table, nothing)).reshape(-1, read_by.shape[1] * x.shape[1])


def _down(taps: Tensor, read_by: npt.NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """Return the products of such columns, added along the height: [B * (H * W + 1), taps * C] -> [B, OH * W,
    C]; `read_by` [H, taps] tells for which row of `size` (OH, W) a tap of a row is.

    The position of zeros is what is added at the edges: cheaper than a row of zeros behind a copy of all.
    """
    table = flatten(read_by[:, None, :], np.arange(size[1])[None, :, None], size)
    rows = taps.reshape(-1, len(table) + read_by.shape[1], taps.shape[1] // read_by.shape[1])
    return scatter(rows, table, size[0] * size[1])


def _dense_dx(grad: Tensor, weight: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """Compute the gradient of the input. With stride 1, it takes columns along the width and adds results
    along the height. With a stride those columns would be mostly zeros: there every tap is a result.
    """
    out_channels, channels = weight.shape[:2]
    height, width = vertical.inputs, horizontal.inputs
    if _in_place(vertical) and _in_place(horizontal):
        rows = to_rows(grad).reshape(-1, out_channels) @ weight.reshape(out_channels, channels)
        return from_rows(rows, height, width)
    if horizontal.stride > 1:
        kernel = weight.permute(0, 2, 3, 1).reshape(out_channels, -1)
        table = reading_table(vertical, horizontal)
        rows = (to_rows(grad).reshape(-1, out_channels) @ kernel).reshape(-1, len(table), channels)
        return from_rows(scatter(rows, table, height * width), height, width)
    if _apart(channels, out_channels, vertical):
        # The columns are those of the kernel's gradient.
        kernel = weight.permute(2, 0, 3, 1).reshape(vertical.size * out_channels, -1)
        taps = _along(grad, vertical.read_by) @ kernel
        return from_rows(_beside(taps, horizontal.reads, (height, width)), height, width)
    kernel = weight.permute(3, 0, 2, 1).reshape(horizontal.size * out_channels, -1)
    taps = _across(grad, horizontal.read_by) @ kernel
    return from_rows(_down(taps, vertical.reads, (height, width)), height, width)


def _beside(taps: Tensor, reads: npt.NDArray[np.int64], size: tuple[int, int]) -> Tensor:
    """Return the products of columns along the height, added along the width: [B * (H * places + 1), taps *
    C] -> [B, H * W, C]; `reads` [places, taps] tells for which column of `size` (H, W) a tap of a place is.
    """
    table = flatten(np.arange(size[0])[:, None, None], reads[None], size)
    rows = taps.reshape(-1, len(table) + reads.shape[1], taps.shape[1] // reads.shape[1])
    return scatter(rows, table, size[0] * size[1])
