"""Depthwise convolution: every channel by a kernel of its own.

Channel by channel, one row of outputs is the rows that it reads, side by side, times a banded matrix that
holds the kernel: three batched products for value and gradients, whose operands are few times the map. On
wide maps the bands are mostly zeros; there every tap is gathered, scaled and added.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .rows import Table, Window, flatten, from_rows, gather, tap_tables, to_rows

WIDEST = 32
"""Columns of the widest map that is worth a banded matrix."""


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, vertical: Window, horizontal: Window) -> Tensor:
    """Convolve each channel by itself: [B, C, H, W] and [C, 1, KH, KW] -> [B, C, OH, OW]."""
    if _wide(horizontal):
        return _by_taps(x, weight, bias, vertical, horizontal)
    out = _banded_product(x, weight, vertical.reads, horizontal.reads, horizontal.inputs)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def depthwise_dx(grad: Tensor, weight: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """Return the gradient of the input: the same product, where outputs are read by inputs.

    Rows are float32 [positions, C].
    """
    if _wide(horizontal):
        return _dx_by_taps(grad, weight, vertical, horizontal)
    return _banded_product(grad, weight, vertical.read_by, horizontal.read_by, horizontal.outputs)


def depthwise_dw(grad: Tensor, x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    """Return the gradient of the kernel: that of the banded matrix, summed along its bands.

    Rows are float32 [positions, C].
    """
    if _wide(horizontal):
        return _dw_by_taps(grad, x, vertical, horizontal)
    channels, size = int(x.shape[1]), vertical.size * horizontal.inputs
    by_column = grad.permute(1, 3, 0, 2).reshape(channels, horizontal.outputs, -1)
    banded = torch.bmm(by_column, _side_by_side(x, vertical.reads)).reshape(channels, -1, 1)
    table = np.full((vertical.size, horizontal.size, horizontal.outputs), horizontal.outputs * size)
    output, tap = np.nonzero(horizontal.reads >= 0)
    for down in range(vertical.size):
        table[down, tap, output] = output * size + down * horizontal.inputs + horizontal.reads[output, tap]
    along = gather(banded, _flat(table)).reshape(channels, -1, horizontal.outputs)
    return along.sum(2).reshape(channels, 1, vertical.size, horizontal.size)


def _wide(horizontal: Window) -> bool:
    return max(horizontal.inputs, horizontal.outputs) > WIDEST


def _flat(table: npt.NDArray[np.int64]) -> Table:
    return table.astype(np.int32).reshape(-1)


def _side_by_side(x: Tensor, reads: npt.NDArray[np.int64]) -> Tensor:
    """Put rows side by side, [B, C, H, W] -> [C, B * rows, taps * W]: the rows of the map that `reads` [rows,
    taps] names.
    """
    channels, height, width = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])
    rows = x.permute(1, 0, 2, 3).reshape(-1, height, width)
    return gather(rows, _flat(np.where(reads < 0, height, reads))).reshape(
        channels, -1, reads.shape[1] * width
    )


def _banded_product(
    x: Tensor,
    weight: Tensor,
    down: npt.NDArray[np.int64],
    across: npt.NDArray[np.int64],
    width: int,
) -> Tensor:
    """Multiply `x` by the kernel; `down` and `across` hold which row and column a place of the result reads
    with each tap, -1 for none.
    """
    channels, taps = weight.shape[0], weight.shape[2] * weight.shape[3]
    place, tap = np.nonzero(across >= 0)
    table = np.full((weight.shape[2], width, len(across)), taps)
    for row in range(weight.shape[2]):
        table[row, across[place, tap], place] = row * weight.shape[3] + tap
    banded = gather(weight.reshape(channels, taps, 1), _flat(table))
    rows = torch.bmm(_side_by_side(x, down), banded.reshape(channels, -1, len(across)))
    return rows.reshape(channels, -1, len(down), len(across)).permute(1, 0, 2, 3)


def _by_taps(x: Tensor, weight: Tensor, bias: Tensor | None, vertical: Window, horizontal: Window) -> Tensor:
    rows, taps = to_rows(x), weight.flatten(1).t()
    total = bias
    for k, table in enumerate(tap_tables(vertical, horizontal)):
        product = gather(rows, table) * taps[k]
        total = product if total is None else total + product
    assert total is not None
    return from_rows(total, vertical.outputs, horizontal.outputs)


def _dx_by_taps(grad: Tensor, weight: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    rows, taps = to_rows(grad), weight.flatten(1).t()
    total: Tensor | None = None
    for k in range(vertical.size * horizontal.size):
        down, across = divmod(k, horizontal.size)
        read_by = flatten(
            vertical.read_by[:, None, down],
            horizontal.read_by[None, :, across],
            (vertical.outputs, horizontal.outputs),
        )
        product = gather(rows, read_by) * taps[k]
        total = product if total is None else total + product
    assert total is not None
    return from_rows(total, vertical.inputs, horizontal.inputs)


def _dw_by_taps(grad: Tensor, x: Tensor, vertical: Window, horizontal: Window) -> Tensor:
    rows, inputs = to_rows(grad), to_rows(x)
    taps = [(rows * gather(inputs, table)).sum((0, 1)) for table in tap_tables(vertical, horizontal)]
    return torch.stack(taps, 1).reshape(x.shape[1], 1, vertical.size, horizontal.size)
