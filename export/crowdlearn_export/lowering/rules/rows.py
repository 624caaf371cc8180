"""Feature maps as rows: one row of channels per position, moved by constant index tables.

A map [B, C, H, W] is held as rows [B, H * W, C]. Reading windows is `gather`, a copy of whole rows by a
table; its adjoint is `scatter`. The table is the same for every sample, so one program serves every batch
size. Position `H * W` stands for the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Table = npt.NDArray[np.int32]


def to_rows(x: Tensor) -> Tensor:
    """View maps as rows: [B, C, H, W] -> [B, H * W, C]."""
    batch, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)


def from_rows(rows: Tensor, height: int, width: int) -> Tensor:
    """View rows as maps: [..., C] with B * height * width rows -> [B, C, height, width]."""
    return rows.reshape(-1, height, width, rows.shape[-1]).permute(0, 3, 1, 2)


def gather(rows: Tensor, table: Table, fill: float = 0.0) -> Tensor:
    """Return rows `table` of every sample; the index past the last is a row of `fill`. [B, N, C] -> [B, T,
    C].
    """
    size = int(rows.shape[1])
    if np.array_equal(table, np.arange(size)):
        return rows
    if table.max(initial=0) == size:
        rows = torch.cat([rows, rows.new_full((rows.shape[0], 1, rows.shape[2]), fill)], 1)
    return torch.index_select(rows, 1, torch.from_numpy(table))


def scatter(rows: Tensor, table: Table, size: int, repeat: int = 1) -> Tensor:
    """Return the adjoint of `gather`: row r // repeat is added to position `table[r]` of `size`. [B, N, C] ->
    [B, size, C]. Rows past those of the table are zeros that need not be added.
    """
    kept = np.flatnonzero(table < size)
    kept = kept[np.argsort(table[kept], kind="stable")]
    target = table[kept]
    rank = np.arange(len(target)) - np.searchsorted(target, target)
    sources = np.full((int(rank.max(initial=0)) + 1, size), len(table) // repeat, np.int32)
    sources[rank, target] = kept // repeat
    total = gather(rows, sources[0])
    for more in sources[1:]:
        total = total + gather(rows, more)
    return total


@dataclass(frozen=True)
class Window:
    """A sliding window over one axis: `outputs` places, `size` taps, over `inputs` positions."""

    inputs: int
    size: int
    stride: int
    padding: int
    dilation: int
    outputs: int

    @property
    def reads(self) -> npt.NDArray[np.int64]:
        """Return the position that tap k of output o reads, -1 in the padding. [outputs, size]."""
        at = (
            np.arange(self.outputs)[:, None] * self.stride
            - self.padding
            + np.arange(self.size) * self.dilation
        )
        return np.where((at >= 0) & (at < self.inputs), at, -1)

    @property
    def read_by(self) -> npt.NDArray[np.int64]:
        """Return the output that reads position i with tap k, -1 where there is none. [inputs, size]."""
        found = np.full((self.inputs, self.size), -1)
        output, tap = np.nonzero(self.reads >= 0)
        found[self.reads[output, tap], tap] = output
        return found


def windows(
    shape: Sequence[int],
    outputs: Sequence[int],
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Window, Window]:
    """Return the vertical and the horizontal window of a two-dimensional one."""
    vertical, horizontal = (
        Window(int(shape[i]), size[i], stride[i], padding[i], dilation[i], int(outputs[i])) for i in (0, 1)
    )
    return vertical, horizontal


def flatten(height: npt.NDArray[np.int64], width: npt.NDArray[np.int64], size: tuple[int, int]) -> Table:
    """Return positions height * W + width, or H * W (the padding) where either is -1; broadcasts, then
    flattens.
    """
    at = np.where((height < 0) | (width < 0), size[0] * size[1], height * size[1] + width)
    return at.astype(np.int32).reshape(-1)


def reading_table(vertical: Window, horizontal: Window) -> Table:
    """Return rows read by every output position and tap, in the order [OH, OW, KH, KW]."""
    return flatten(
        vertical.reads[:, None, :, None],
        horizontal.reads[None, :, None, :],
        (vertical.inputs, horizontal.inputs),
    )


def tap_tables(vertical: Window, horizontal: Window) -> list[Table]:
    """Return one table [OH * OW] per tap, in the order [KH, KW]."""
    table = reading_table(vertical, horizontal)
    return [np.ascontiguousarray(column) for column in table.reshape(-1, vertical.size * horizontal.size).T]
