"""The networks whose memory is measured, and how they are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A network, the shape of one sample, and the share of every hidden layer that each piece owns."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    shares: tuple[float, ...]


def dense() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(64, 2048), nn.BatchNorm1d(2048), nn.ReLU()),
        *(nn.Linear(2048, 2048), nn.SiLU(), nn.Linear(2048, 10)),
    )


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.SiLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.SiLU(), nn.MaxPool2d(2), nn.AvgPool2d(4), nn.Flatten()),
        nn.Linear(1024, 10),
    )


class Residual(nn.Module):
    """A stem; then a depthwise convolution whose result is added to what it began with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.SiLU())
        self.depthwise, self.head = nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = nn.functional.silu(x + self.depthwise(x))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


CASES = {
    "dense": Case(dense, (64,), (0.0, 0.5, 0.5)),
    "convolutional": Case(convolutional, (3, 32, 32), (0.0, 0.5, 0.5)),
    "residual": Case(Residual, (3, 32, 32), (0.25, 0.75)),
}
