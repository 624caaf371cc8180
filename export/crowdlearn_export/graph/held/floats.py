"""Frozen weights as floating-point numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Held

if TYPE_CHECKING:
    from torch import Tensor


class Float32(Held):
    """Weights as they are."""

    kind = dtype = "float32"

    def encoded(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the weight itself, float32 [rows, ...]."""
        return (weight,)


class Float16(Held):
    """Weights in half the memory, rounded by at most 1/2048 of themselves; none may be beyond 65,504."""

    kind = dtype = "float16"

    def encoded(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return the nearest float16 of each, float32 [rows, ...]; infinite where a weight is too large."""
        import torch

        return (weight.to(torch.float16).to(weight.dtype),)
