"""Upsampling of maps: nearest neighbours as gathered rows, and linear interpolation as two products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .rows import Table, flatten, from_rows, gather, scatter, to_rows


def nearest(
    x: Tensor, output_size: Sequence[int], scales_h: float | None = None, scales_w: float | None = None
) -> Tensor:
    """Compute aten.upsample_nearest2d. Maps are float32 [B, C, H, W]."""
    height, width = (int(size) for size in output_size)
    return from_rows(gather(to_rows(x), _table(x.shape[2:], output_size, scales_h, scales_w)), height, width)


def nearest_backward(
    grad: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Compute its backward. Maps are float32 [B, C, H, W]."""
    height, width = (int(size) for size in input_size[2:])
    table = _table((height, width), output_size, scales_h, scales_w)
    return from_rows(scatter(to_rows(grad), table, height * width), height, width)


def bilinear(
    x: Tensor,
    output_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Compute aten.upsample_bilinear2d. Maps are float32 [B, C, H, W]."""
    down, across = _weights(x.shape[2:], output_size, align_corners, scales_h, scales_w)
    return _both(x, down, across)


def bilinear_backward(
    grad: Tensor,
    output_size: Sequence[int],
    input_size: Sequence[int],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Tensor:
    """Compute its backward. Maps are float32 [B, C, H, W]."""
    down, across = _weights(input_size[2:], output_size, align_corners, scales_h, scales_w)
    return _both(grad, down.t().contiguous(), across.t().contiguous())


def _both(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Multiply columns by `down` [OH, H] and rows by `across` [OW, W]."""
    channels, height, width = (int(size) for size in x.shape[1:])
    wide = x.reshape(-1, width) @ across.t()
    turned = wide.reshape(-1, channels, height, len(across)).permute(0, 1, 3, 2)
    tall = turned.reshape(-1, height) @ down.t()
    return tall.reshape(-1, channels, len(across), len(down)).permute(0, 1, 3, 2)


def _table(
    source: Sequence[int], target: Sequence[int], scales_h: float | None, scales_w: float | None
) -> Table:
    """Return which position of a map each position of the larger one shows."""
    down, across = (
        np.minimum(np.floor(np.arange(wanted, dtype=np.float32) * _scale(size, wanted, scale)), size - 1)
        for size, wanted, scale in _axes(source, target, scales_h, scales_w)
    )
    return flatten(down[:, None].astype(int), across[None].astype(int), (int(source[0]), int(source[1])))


def _weights(
    source: Sequence[int],
    target: Sequence[int],
    align_corners: bool,
    scales_h: float | None,
    scales_w: float | None,
) -> tuple[Tensor, Tensor]:
    """Return how much each column and row of the larger map takes of those of a map, [OH, H] and [OW, W]."""
    each = []
    for size, wanted, scale in _axes(source, target, scales_h, scales_w):
        places = np.arange(wanted)
        if align_corners:
            at = places * ((size - 1) / (wanted - 1) if wanted > 1 else 0.0)
        else:
            at = np.maximum((places + 0.5) * float(_scale(size, wanted, scale)) - 0.5, 0)
        first = np.minimum(at.astype(int), size - 1)
        share = at - first
        weights = np.zeros((wanted, size))
        np.add.at(weights, (places, first), 1 - share)
        np.add.at(weights, (places, np.minimum(first + 1, size - 1)), share)
        each.append(torch.from_numpy(weights.astype(np.float32)))
    return each[0], each[1]


def _axes(
    source: Sequence[int], target: Sequence[int], scales_h: float | None, scales_w: float | None
) -> list[tuple[int, int, float | None]]:
    """Return size, wanted size and scale of each axis."""
    return [
        (int(size), int(wanted), scale)
        for size, wanted, scale in zip(source, target, (scales_h, scales_w), strict=True)
    ]


def _scale(size: int, wanted: int, scale: float | None) -> np.float32:
    """Return how far apart places are in the map, as PyTorch computes it."""
    return np.float32(1 / scale if scale else np.float32(size) / np.float32(wanted))
