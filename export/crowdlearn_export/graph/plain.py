"""Functions of PyTorch in words that the compiler knows: one-dimensional convolutions and pools as
two-dimensional ones of height 1, recurrences as their cells, one after the other.
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


def _gru(x: Tensor, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return one step of a GRU from what the input gives its gates."""
    reset_x, update_x, new_x = x.chunk(3, 1)
    reset_h, update_h, new_h = F.linear(h, weights[1], weights[3] if len(weights) > 2 else None).chunk(3, 1)
    reset, update = torch.sigmoid(reset_x + reset_h), torch.sigmoid(update_x + update_h)
    new = torch.tanh(new_x + reset * new_h)
    return new + update * (h - new)


def _lstm(x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    gates = x + F.linear(h, weights[1], weights[3] if len(weights) > 2 else None)
    enter, forget, cell, leave = gates.chunk(4, 1)
    c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(cell)
    return torch.sigmoid(leave) * torch.tanh(c), c


def gru(
    x: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    """Compute torch.gru, step by step. Inputs are float32 [B, L, features]."""

    def layer(x: Tensor, at: int, weights: Sequence[Tensor], *, back: bool) -> tuple[Tensor, Tensor]:
        h, found = hx[at], []
        steps = _gates(x, weights)
        for step in reversed(steps) if back else steps:
            h = _gru(step, h, weights)
            found.append(h)
        return torch.stack(found[::-1] if back else found, 1), h

    out, last = _layers(layer, x, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return out, torch.stack(last)


def lstm(
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute torch.lstm, step by step. Inputs are float32 [B, L, features]."""
    cells = []

    def layer(x: Tensor, at: int, weights: Sequence[Tensor], *, back: bool) -> tuple[Tensor, Tensor]:
        h, c, found = hx[0][at], hx[1][at], []
        steps = _gates(x, weights)
        for step in reversed(steps) if back else steps:
            h, c = _lstm(step, h, c, weights)
            found.append(h)
        cells.append(c)
        return torch.stack(found[::-1] if back else found, 1), h

    out, last = _layers(layer, x, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)
    return out, torch.stack(last), torch.stack(cells)


def _gates(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Return what the inputs [B, L, features] give the gates, for every step: one product for all of them."""
    return list(F.linear(x, weights[0], weights[2] if len(weights) > 2 else None).unbind(1))


def _layers(
    layer: Callable[..., tuple[Tensor, Tensor]],
    x: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    if dropout and train and num_layers > 1:
        raise UnsupportedModule("dropout between recurrent layers is no module; put Dropout between them")
    if not batch_first:
        raise UnsupportedModule("a recurrence takes the batch first; set batch_first=True")
    each, ways = 4 if has_biases else 2, 2 if bidirectional else 1
    if len(params) != each * num_layers * ways:
        raise UnsupportedModule("a recurrence with projections cannot be trained; leave proj_size out")
    last = []
    for number in range(num_layers):
        found = []
        for way in range(ways):
            at = number * ways + way
            out, h = layer(x, at, params[each * at : each * (at + 1)], back=way == 1)
            found.append(out)
            last.append(h)
        x = torch.cat(found, 2) if ways > 1 else found[0]
    return x, last


PLAIN: dict[str, Callable[..., Any]] = {
    "conv1d": conv1d,
    "max_pool1d": max_pool1d,
    "_max_pool1d": max_pool1d,
    "avg_pool1d": avg_pool1d,
    "adaptive_avg_pool1d": adaptive_avg_pool1d,
    "gru": gru,
    "lstm": lstm,
}
"""The plain forms, by the name of the function."""
