"""Gradients of parts of a tensor: the part between zeros, since no phone scatters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MOST_PICKED = 32
"""Places of a gather whose gradients are added one by one."""


def slice_backward(gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    """Return the gradient of x[start:end] along a dimension; of other steps than 1, as PyTorch has it."""
    if step == 1 and start == 0 and end == sys.maxsize:
        return gradient.clone()  # all of it, as the batch is in x[:, 0]
    size = sizes[dim]
    if step != 1 or not isinstance(size, int):
        return NotImplemented
    start, end, _ = slice(start, end).indices(size)
    return _between(gradient, dim % gradient.dim(), start, size - end)


def select_backward(gradient: Tensor, sizes: Sequence[int], dim: int, index: int) -> Any:
    """Return the gradient of x[index] along a dimension."""
    size = sizes[dim]
    if not isinstance(size, int):
        return NotImplemented
    dim, index = dim % len(sizes), index % size
    return _between(gradient.unsqueeze(dim), dim, index, size - index - 1)


def scatter_add(x: Tensor, dim: int, index: Tensor, added: Tensor) -> Any:
    """Compute aten.scatter_add, which the gradient of gather is, by products with masks; along a dimension of
    known size. Tensors are float32 [...], `index` int64 [...] of the shape of `added`.
    """
    dim = dim % x.dim()
    size, picked = x.shape[dim], index.shape[dim]
    alike = x.shape[:dim] == index.shape[:dim] and x.shape[dim + 1 :] == index.shape[dim + 1 :]
    if not alike or not isinstance(size, int) or not isinstance(picked, int) or picked > MOST_PICKED:
        return NotImplemented
    places = torch.arange(size).reshape(*[1] * dim, size, *[1] * (x.dim() - dim - 1))
    for at in range(picked):
        here = (index.narrow(dim, at, 1) == places).to(x.dtype)
        x = x + here * added.narrow(dim, at, 1)
    return x


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """Compute aten.index of whole numbers along the first dimensions, as masks are read: rows of the tensor
    [...], chosen by their number. Masks (bool) as indices have no lowering.
    """
    given = [each for each in indices if each is not None]
    sizes = x.shape[1 : len(given)]
    if len(given) < len(indices) or any(each.dtype is torch.bool for each in given):
        return NotImplemented
    if not all(isinstance(size, int) for size in sizes):
        return NotImplemented
    row, *others = given
    for size, at in zip(sizes, others, strict=True):
        row = row * size + at + (at < 0).to(at.dtype) * size
    rows = torch.index_select(x.reshape(-1, *x.shape[len(given) :]), 0, row.reshape(-1))
    return rows.reshape(*row.shape, *x.shape[len(given) :])


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """Compute aten.roll along dimensions of known size: the last part comes first. Tensors are of any shape
    [...].
    """
    if not dims or any(not isinstance(x.shape[dim], int) for dim in dims):
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        size = int(x.shape[dim])
        if kept := size - shift % size:
            x = torch.cat([x.narrow(dim, kept, size - kept), x.narrow(dim, 0, kept)], dim)
    return x.clone()


def _between(gradient: Tensor, dim: int, before: int, after: int) -> Tensor:
    def zeros(count: int) -> list[Tensor]:
        shape = [*gradient.shape[:dim], count, *gradient.shape[dim + 1 :]]
        return [gradient.new_zeros(shape)] if count else []

    parts = [*zeros(before), gradient, *zeros(after)]
    return torch.cat(parts, dim) if len(parts) > 1 else gradient.clone()


def constant_pad(x: Tensor, pad: Sequence[int], value: float = 0.0) -> Tensor:
    """Compute aten.constant_pad_nd: numbers before and after, the last dimension first; where there are fewer
    than none, some of float32 [...] are left out.
    """
    if not any(pad):
        return x.clone()
    for number in range(len(pad) // 2):
        before, after = int(pad[2 * number]), int(pad[2 * number + 1])
        dim = x.dim() - 1 - number
        if before < 0 or after < 0:
            x = x.narrow(dim, max(-before, 0), int(x.shape[dim]) + min(before, 0) + min(after, 0))
        shape = list(x.shape)
        parts = []
        for size in (before, after):
            shape[dim] = size
            parts.append([x.new_full(shape, value)] if size > 0 else [])
        if parts[0] or parts[1]:
            x = torch.cat([*parts[0], x, *parts[1]], dim)
    return x
