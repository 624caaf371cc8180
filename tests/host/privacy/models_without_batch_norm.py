"""Models whose samples do not mix, as DP-SGD needs them."""

from __future__ import annotations

from torch import nn


def smooth() -> nn.Module:
    layers = [nn.Linear(64, 40), nn.Tanh(), nn.Linear(40, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(20, 10))


def partly_frozen() -> nn.Module:
    model = smooth()
    model[2].requires_grad_(False)  # type: ignore[index]
    return model


def maps() -> nn.Module:
    body = [nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Tanh()]
    return nn.Sequential(
        *body, nn.Conv2d(6, 4, 1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)
    )
