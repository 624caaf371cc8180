"""A family of networks, generated: what users write, some of it sliceable, some of it not."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAPS, VECTORS = (2, 8, 8), (12,)
CLASSES = 3


class Run(nn.Module):
    """Modules by name and a forward of them."""

    def __init__(self, forward: Callable[[Run, Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def _twice(net: Run, x: Tensor) -> Tensor:
    return net.c(net.drop(torch.relu(net.b(net.drop(torch.relu(net.a(x)))))))


def _dense(forward: Callable[[Run, Tensor], Tensor], **more: nn.Module) -> nn.Module:
    return Run(forward, a=nn.Linear(12, 8), b=nn.Linear(8, 8), c=nn.Linear(8, CLASSES), **more)


def _mapped(middle: nn.Module, last: int = 4 * 64) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), middle, nn.ReLU(), nn.Flatten(), nn.Linear(last, CLASSES)
    )


def _excited(m: Run, x: Tensor) -> Tensor:
    x = torch.relu(m.conv(x))
    x = x * torch.sigmoid(m.up(x.mean((2, 3))))[:, :, None, None]
    return m.head(x.mean((2, 3)))


SINGLE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "dropout on a feature map": (lambda: _mapped(nn.Dropout(0.3)), MAPS, True),
    "functional dropout": (
        lambda: _dense(lambda m, x: m.c(F.dropout(torch.relu(m.b(m.a(x))), 0.4, training=m.training))),
        VECTORS,
        True,
    ),
    "a dropout called twice": (lambda: _dense(_twice, drop=nn.Dropout(0.2)), VECTORS, True),
    "two dropouts in a layer": (
        lambda: _dense(
            lambda m, x: m.c(m.drop2(torch.tanh(m.drop(m.b(m.a(x)))))),
            drop=nn.Dropout(0.2),
            drop2=nn.Dropout(0.4),
        ),
        VECTORS,
        True,
    ),
    "a view of the batch": (
        lambda: Run(
            lambda m, x: m.head(torch.relu(m.conv(x)).view(x.size(0), -1)),
            conv=nn.Conv2d(2, 4, 3),
            head=nn.Linear(4 * 36, CLASSES),
        ),
        MAPS,
        True,
    ),
    "a layer that forward leaves out": (
        lambda: _dense(lambda m, x: m.c(torch.relu(m.a(x))), unused=nn.Linear(5, 2)),
        VECTORS,
        True,
    ),
    "maps weighted by what their means say": (
        lambda: Run(_excited, conv=nn.Conv2d(2, 6, 3), up=nn.Linear(6, 6), head=nn.Linear(6, CLASSES)),
        MAPS,
        True,
    ),
    "one output": (lambda: nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 1)), VECTORS, False),
    "sigmoid at the end": (
        lambda: nn.Sequential(nn.Linear(12, 6), nn.Linear(6, CLASSES), nn.Sigmoid()),
        VECTORS,
        True,
    ),
    "softmax at the end": (
        lambda: nn.Sequential(nn.Linear(12, 6), nn.Linear(6, CLASSES), nn.Softmax(1)),
        VECTORS,
        False,
    ),
    "a lone layer": (lambda: nn.Linear(12, CLASSES), VECTORS, False),
    "dropout in evaluation": (lambda: _dense(lambda m, x: m.c(F.dropout(m.b(m.a(x)), 0.4))), VECTORS, False),
}
"""By what is special: how it is built, the shape of a sample, and whether it slices."""


def generated(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A network of the family, and the shape of a sample."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    maps = draw.random() < 0.6
    width, size, layers = (MAPS[0], MAPS[1], []) if maps else (VECTORS[0], 0, [])
    for _ in range(draw.randint(1, 3)):
        layers.extend(
            _map_block(draw, width, wide := draw.choice((4, 6)))
            if maps
            else _dense_block(draw, width, wide := draw.choice((5, 8)))
        )
        width = wide
        if maps and size >= 4 and draw.random() < 0.5:
            layers.append(draw.choice((nn.MaxPool2d(2), nn.AvgPool2d(2))))
            size //= 2
    if maps:
        if draw.random() < 0.4:
            layers.append(nn.AdaptiveAvgPool2d(1))
            size = 1
        layers.append(nn.Flatten())
        width *= size * size
    layers.append(nn.Linear(width, draw.choice((CLASSES, CLASSES, CLASSES, 1))))
    layers.extend(draw.choice(([], [], [], [nn.Sigmoid()], [nn.LogSoftmax(1)])))
    return nn.Sequential(*layers), MAPS if maps else VECTORS


def _map_block(draw: random.Random, width: int, wide: int) -> list[nn.Module]:
    conv = nn.Conv2d(width, wide, 3, padding=1, bias=draw.random() < 0.5)
    return [conv, *_around(draw, nn.BatchNorm2d(wide), nn.GroupNorm(2, wide), nn.Dropout2d(0.2))]


def _dense_block(draw: random.Random, width: int, wide: int) -> list[nn.Module]:
    return [
        nn.Linear(width, wide, bias=draw.random() < 0.7),
        *_around(draw, nn.BatchNorm1d(wide), nn.LayerNorm(wide), nn.Dropout(0.2)),
    ]


def _around(draw: random.Random, norm: nn.Module, strange: nn.Module, drop: nn.Module) -> list[nn.Module]:
    activation = draw.choice(
        (nn.ReLU(), nn.GELU(), nn.SiLU(), nn.LeakyReLU(0.2), nn.Hardswish(), nn.Tanh(), nn.ELU())
    )
    behind = draw.choice(([], [], [drop], [nn.Dropout(0.3)]))
    return [*draw.choice(([norm], [norm], [norm], [], [strange])), activation, *behind]
