"""Networks of the host's audit: without batch norm, so that all modes train the same one."""

from __future__ import annotations

from torch import nn


def pixels_784() -> nn.Module:
    """Return 784-100-10 with tanh, for MNIST."""
    return nn.Sequential(nn.Linear(784, 100), nn.Tanh(), nn.Linear(100, 10))


def pixels_64() -> nn.Module:
    """Return 64-32-10 with tanh, for the small digits."""
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
