"""The networks that benchmarks train, with the shape of one sample and the number of classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn


@dataclass(frozen=True)
class Network:
    """A network to be built, the shape of one sample, and its classes."""

    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    classes: int = 10
    tokens: int = 0
    """How many tokens samples are drawn from; 0 for images."""


def cnn() -> nn.Module:
    """The CIFAR CNN of ExecuTorch's training example, without its dropout."""
    return nn.Sequential(
        *(layer for a, b in ((3, 32), (32, 64), (64, 128)) for layer in _convolved(a, b)),
        nn.Flatten(),
        nn.Linear(128 * 4 * 4, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def mlp() -> nn.Module:
    """784-256-128-10."""
    return nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))


def paper_mlp() -> nn.Module:
    """SliceNet's 784-400-200-100-10 with batch norm."""
    sizes = (784, 400, 200, 100)
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(100, 10))


def fedavg_2nn() -> nn.Module:
    """784-200-200-10, the "2NN" that federated averaging was published with (McMahan et al. 2017)."""
    return nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.last = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.last(self.body(x) + self.shortcut(x))


def resnet20() -> nn.Module:
    """ResNet-20 for 32x32 images."""
    blocks = [Residual(16, 16, 1) for _ in range(3)]
    for inputs, outputs in ((16, 32), (32, 64)):
        blocks += [Residual(inputs, outputs, 2), Residual(outputs, outputs, 1), Residual(outputs, outputs, 1)]
    stem = (nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Bottleneck(nn.Module):
    """ResNet-50's block: narrow, 3 x 3, widen fourfold; a projection where the shape changes."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.last = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.last(self.body(x) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 at full width and depth, 23.5 million weights, for 32x32 images: a 3 x 3 stem, no pooling."""
    blocks, inputs = [], 64
    for width, repeats, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for k in range(repeats):
            blocks.append(Bottleneck(inputs, width, stride if k == 0 else 1))
            inputs = 4 * width
    stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 10))


class Inverted(nn.Module):
    """MobileNetV2's block: widen, depthwise, narrow; added to its input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, widen: int = 4) -> None:
        super().__init__()
        wide = inputs * widen
        self.body = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.added = inputs == outputs and stride == 1

    def forward(self, x):  # type: ignore[no-untyped-def]
        return x + self.body(x) if self.added else self.body(x)


def mobilenet() -> nn.Module:
    """A small MobileNetV2 for 32x32 images."""
    stem = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    blocks = (
        Inverted(16, 24, 1),
        Inverted(24, 24, 1),
        Inverted(24, 32, 2),
        Inverted(32, 32, 1),
        Inverted(32, 64, 2),
    )
    head = (nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6())
    return nn.Sequential(*stem, *blocks, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 at full width and depth for 32x32 images: 17 inverted residuals, 16 to 320 channels."""
    stages = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    stem = (nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6())
    blocks, inputs = [], 32
    for widen, outputs, repeats, stride in stages:
        for k in range(repeats):
            blocks.append(Inverted(inputs, outputs, stride if k == 0 else 1, widen))
            inputs = outputs
    head = (nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6())
    return nn.Sequential(*stem, *blocks, *head, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 10))


class Transformer(nn.Module):
    """Token embedding, one pre-norm attention block, mean over the sequence."""

    def __init__(self, tokens: int = 64, length: int = 32, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.heads, self.norm, self.second = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.head = nn.Linear(width, 10)

    def forward(self, x):  # type: ignore[no-untyped-def]
        x = self.embed(x) + self.position
        batch, length, width = x.shape
        parts = self.qkv(self.norm(x)).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(mixed.permute(0, 2, 1, 3).reshape(batch, length, width))
        return self.head((x + self.feed(self.second(x))).mean(1))


NETWORKS = {
    "cnn": Network(cnn, (3, 32, 32)),
    "mlp": Network(mlp, (784,)),
    "paper_mlp": Network(paper_mlp, (784,)),
    "resnet20": Network(resnet20, (3, 32, 32)),
    "mobilenet": Network(mobilenet, (3, 32, 32)),
    "transformer": Network(Transformer, (32,), tokens=64),
}


def _convolved(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)
