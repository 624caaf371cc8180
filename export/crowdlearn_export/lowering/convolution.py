"""Convolution and its gradients as matrix products over gathered rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import LoweringError
from .depthwise import depthwise, depthwise_dw, depthwise_dx
from .rows import (
    Window,
    flatten,
    from_rows,
    gather,
    reading_table,
    scatter,
    to_rows,
    uneven,
    windows,
)

FEW = 4
"""Channels up to which a row is so short that copying it costs mostly the call."""


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
    """aten.convolution: columns of input rows times the kernel; depthwise ones are in `depthwise`."""
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
    _check(weight, transposed)
    vertical, horizontal = _windows(x, weight, stride, padding, dilation)
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
    """aten.convolution_backward: the gradients of input, kernel and bias that `output_mask` asks for."""
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
    _check(weight, transposed)
    vertical, horizontal = _windows(x, weight, stride, padding, dilation)
    dx = dw = db = None
    if output_mask[2]:
        db = to_rows(grad).reshape(-1, grad.shape[1]).sum(0)
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


def _check(weight: Tensor, transposed: bool) -> None:
    if transposed:
        raise LoweringError("a transposed convolution has no lowering; use an upsampling and a convolution")
    if weight.dim() != 4:
        raise LoweringError(
            f"a convolution over {weight.dim() - 2} dimensions has no lowering; use Conv1d or Conv2d"
        )


def _windows(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> tuple[Window, Window]:
    size = [int(s) for s in weight.shape[2:]]
    reach = [dilation[i] * (size[i] - 1) for i in (0, 1)]
    outputs = [(int(x.shape[2 + i]) + 2 * padding[i] - reach[i] - 1) // stride[i] + 1 for i in (0, 1)]
    return windows(x.shape[2:], outputs, size, stride, padding, dilation)


def _chunks(bias: Tensor | None, groups: int) -> Sequence[Tensor | None]:
    return [None] * groups if bias is None else bias.chunk(groups)


def _join(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _columns(x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """[B, C, H, W] -> [B * OH * OW, KH * KW * C]; forward and weight gradient share them."""
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
    columns = _columns(x, vertical, horizontal)
    return torch.nn.functional.linear(columns, weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1), bias)


def _dense_dw(grad: Tensor, x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    rows = to_rows(grad).reshape(-1, grad.shape[1])
    dw = rows.t() @ _columns(x, vertical, horizontal)
    return dw.reshape(grad.shape[1], vertical.size, horizontal.size, x.shape[1]).permute(0, 3, 1, 2)


def _dense_dx(grad: Tensor, weight: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """One product, then its rows scattered.

    With stride 1: columns of `grad` along the width only, the product with the kernel, and its KH results
    scattered along the height: KW and KH times the map instead of KH * KW times. With a stride those
    columns would be mostly zeros, so there every tap is scattered.
    """
    out_channels, channels = weight.shape[:2]
    height, width, extra = vertical.inputs, horizontal.inputs, 0
    if horizontal.stride > 1:
        kernel = weight.permute(0, 2, 3, 1).reshape(out_channels, -1)
        columns = to_rows(grad).reshape(-1, out_channels)
        table = reading_table(vertical, horizontal)
    else:
        kernel = weight.permute(3, 0, 2, 1).reshape(horizontal.size * out_channels, -1)
        rows = np.arange(vertical.outputs)[:, None, None]
        reads = flatten(rows, horizontal.read_by[None], (vertical.outputs, horizontal.outputs))
        table = flatten(vertical.reads[:, None, :], np.arange(width)[None, :, None], (height, width))
        if uneven(table, height * width):
            # A product of zeros is cheaper than a row of zeros behind a copy of all products.
            nothing = np.full(horizontal.size, vertical.outputs * horizontal.outputs, np.int32)
            reads, extra = np.append(reads, nothing), vertical.size
        columns = gather(to_rows(grad), reads).reshape(-1, horizontal.size * out_channels)
    taps = (columns @ kernel).reshape(-1, len(table) + extra, channels)
    return from_rows(scatter(taps, table, height * width), height, width)
