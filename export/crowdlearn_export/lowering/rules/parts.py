"""Gradients of parts of a tensor: the part between zeros, since no phone scatters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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


def _between(gradient: Tensor, dim: int, before: int, after: int) -> Tensor:
    def zeros(count: int) -> list[Tensor]:
        shape = [*gradient.shape[:dim], count, *gradient.shape[dim + 1 :]]
        return [gradient.new_zeros(shape)] if count else []

    parts = [*zeros(before), gradient, *zeros(after)]
    return torch.cat(parts, dim) if len(parts) > 1 else gradient.clone()
