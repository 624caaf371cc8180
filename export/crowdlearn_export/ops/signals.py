"""Signals [channels, length] as maps of height 1: modules of one dimension as the same of two."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

ONE_DIMENSION: dict[object, type[nn.Module]] = {
    F.dropout1d: nn.Dropout1d,
    F.max_pool1d: nn.MaxPool1d,
    F.avg_pool1d: nn.AvgPool1d,
    F.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
}
"""The module of each function of signals."""


def on_maps(module: nn.Module) -> nn.Module:
    """Return the module that does to maps of height 1 what this does to signals; itself, if it is no such.

    A convolution comes without weights.
    """
    match module:
        case nn.Conv1d():
            padding: Any = module.padding
            return nn.Conv2d(
                module.in_channels,
                module.out_channels,
                _wide(module.kernel_size, 1),
                _wide(module.stride, 1),
                padding if isinstance(padding, str) else _wide(padding, 0),
                _wide(module.dilation, 1),
                module.groups,
                module.bias is not None,
                module.padding_mode,
                device="meta",
            )
        case nn.MaxPool1d():
            return nn.MaxPool2d(
                *_windows(module),
                dilation=_wide(module.dilation, 1),
                return_indices=module.return_indices,
                ceil_mode=module.ceil_mode,
            )
        case nn.AvgPool1d():
            return nn.AvgPool2d(
                *_windows(module), ceil_mode=module.ceil_mode, count_include_pad=module.count_include_pad
            )
        case nn.AdaptiveAvgPool1d():
            return nn.AdaptiveAvgPool2d(_wide(module.output_size, 1))
        case nn.Dropout1d():
            return nn.Dropout2d(module.p)
    return module


def _windows(module: Any) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return kernel, stride and padding of a pool, in two dimensions."""
    kernel = _wide(module.kernel_size, 1)
    stride = kernel if module.stride is None else _wide(module.stride, 1)
    return kernel, stride, _wide(module.padding, 0)


def _wide(size: Any, height: int) -> tuple[int, int]:
    return height, int(size[0] if isinstance(size, tuple | list) else size)
