"""What dropout does with factors that are drawn outside of a program: 0, or 1 / (1 - p)."""

from __future__ import annotations

from math import sqrt

from torch import Tensor

LEAST = -1.7580993408473766
"""The least value of SELU, to which AlphaDropout sets what it drops."""


def scaled(x: Tensor, factors: Tensor, p: float) -> Tensor:
    """Drop as nn.Dropout does. Activations and factors are float32 [B, ...]; `p` is the share that goes."""
    return x * factors


def normal(x: Tensor, factors: Tensor, p: float) -> Tensor:
    """Drop as nn.AlphaDropout does, so that mean 0 and variance 1 stay.

    Activations and factors are float32 [B, ...]; `p` is the share that goes.
    """
    kept = factors * (1 - p)
    spread = 1 / sqrt((1 - p) * (1 + p * LEAST * LEAST))
    return x * (kept * spread) + ((1 - kept) * (LEAST * spread) - LEAST * spread * p)
