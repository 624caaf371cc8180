"""Clipping by the norm of all gradients of a network, of which each piece has its own part."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import numpy as np
import numpy.typing as npt

SMALL = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


def square(gradients: Iterable[npt.NDArray[np.float32]]) -> float:
    """Return the sum of the squares of all numbers, in float64. Gradients are float32 [...]."""
    return sum(float(np.dot(flat, flat)) for g in gradients for flat in [g.reshape(-1).astype(np.float64)])


def clipping(squares: Iterable[float], clip_norm: float) -> float:
    """Return the factor of all gradients whose parts have these `squares`, in the order of pieces."""
    return min(1.0, clip_norm / (sqrt(sum(squares)) + SMALL))
