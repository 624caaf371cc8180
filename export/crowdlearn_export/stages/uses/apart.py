"""Where the samples of a mini-batch are in a tensor that a model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """The axis that is the batch; or, if `each` is not 0, the first axis holds `each` rows of every sample,
    one sample behind the other.
    """

    axis: int
    each: int = 0

    def apart(self, x: Tensor) -> Tensor:
        """Return a tensor with its batch in front: [B, ...]."""
        if self.each:
            return x.reshape(-1, self.each, *x.shape[1:])
        return x.movedim(self.axis, 0) if self.axis else x

    def shape(self, like: Sequence[int], batch: int) -> list[int]:
        """Return the shape of a tensor like this one, of `batch` samples."""
        found = list(like)
        found[self.axis] = batch * (self.each or 1)
        return found

    def rest(self, sizes: Sequence[int]) -> list[int]:
        """Return what `apart` makes of the sizes behind the batch, given those of all axes."""
        return list(sizes) if self.each else [*sizes[: self.axis], *sizes[self.axis + 1 :]]


def batch_of(shape: Sequence[int], batch: int) -> Batch | None:
    """Return where so many samples are in a tensor of this shape; None if there is no telling. `batch` is
    a number that no other size is, or is a multiple of.
    """
    axes = [axis for axis, size in enumerate(shape) if size == batch]
    if len(axes) == 1:
        return Batch(axes[0])
    if not axes and shape and shape[0] and shape[0] % batch == 0:
        return Batch(0, shape[0] // batch)
    return None


def positions(x: Tensor) -> Tensor:
    """View [B, ..., D] as [B, positions, D]."""
    return x.reshape(-1, prod(x.shape[1:-1]), x.shape[-1])
