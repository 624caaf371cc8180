"""A network for two seconds of six signals of a smartwatch."""

from torch import nn

SIGNALS, TIMES, CLASSES = 6, 100, 7


def build() -> nn.Module:
    """Return the network: inputs float32 [N, 6, 1, 100], scores float32 [N, 7]."""
    return nn.Sequential(
        *(nn.Conv2d(SIGNALS, 16, (1, 9), stride=(1, 4)), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 24, (1, 5), stride=(1, 3)), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(24 * 7, 48), nn.BatchNorm1d(48), nn.ReLU()),
        nn.Linear(48, CLASSES),
    )
