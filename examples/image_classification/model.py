"""A small convolutional network for 28 x 28 grey images."""

from torch import nn


def build() -> nn.Module:
    """Return the network: inputs float32 [N, 1, 28, 28], scores float32 [N, 10]."""
    return nn.Sequential(
        *(nn.Conv2d(1, 12, 5, stride=2), nn.BatchNorm2d(12), nn.ReLU()),
        *(nn.Conv2d(12, 24, 5, stride=2), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 4 * 4, 48), nn.BatchNorm1d(48), nn.ReLU()),
        nn.Linear(48, 10),
    )
