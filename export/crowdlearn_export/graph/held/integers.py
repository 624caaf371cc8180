"""Frozen weights as whole numbers of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import Held

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 127
SPARE_BITS = 7
"""The last bits of a spacing's float32, which are 0: times a code of as many bits it is exact."""


class Int8(Held):
    """Weights in a quarter of the memory: whole numbers from -127 to 127, and one spacing for each row.

    A row's spacing is its largest magnitude over 127, rounded up by at most 2**-16 of itself. So a weight is
    rounded by at most half a spacing, 1/254 of its row's largest. Code times spacing is exact in float32, on
    any processor. If a spacing were below the smallest normal float32, the row becomes 0.
    """

    kind = dtype = "int8"
    spaced = True

    def encoded(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Return codes, float32 [rows, ...], and spacings, float32 [rows]."""
        import torch

        largest = weight.abs().reshape(len(weight), -1).amax(1)
        last = (1 << SPARE_BITS) - 1
        bits = (largest / LARGEST).view(torch.int32)
        spacings = ((bits + last) & ~last).view(torch.float32)
        spacings = torch.where(spacings < torch.finfo(torch.float32).tiny, 0.0, spacings)
        steps = _by_row(torch.where(spacings > 0, spacings, torch.inf), weight)
        return torch.round(weight / steps), spacings

    def decoded(self, codes: Tensor, *spacings: Tensor) -> Tensor:
        """Return codes times spacings: float32 [rows, ...]."""
        (spacing,) = spacings
        return codes.to(spacing.dtype) * _by_row(spacing, codes)


def _by_row(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
