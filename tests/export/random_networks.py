"""Networks drawn at random, full of identities: shortcuts, sums that go on as they are, layers alike.

Their activations are smooth, so that float32 can be compared with float64 at every sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from torch import Tensor, nn

WIDTH = 4
"""Neurons of the stream that shortcuts join."""
Draw = random.Random
Linear = Callable[[Draw, int, int], nn.Module]


@dataclass(frozen=True)
class Variety:
    """The choices of a generator: the fewer, the more methods are met again, and compiled once."""

    hidden: Sequence[int]
    kernels: Sequence[int]
    biases: Sequence[bool]
    activations: Sequence[type[nn.Module] | None]
    blocks: int


FEW = Variety((4,), (3,), (True,), (nn.SiLU,), 2)
ALL = Variety((2, 6), (1, 3), (True, False), (None, nn.Tanh, nn.SiLU, nn.GELU, nn.Sigmoid), 3)


class Shortcut(nn.Module):
    """`x + body(x)`, or the sum the other way round."""

    def __init__(self, body: nn.Module, last: bool) -> None:
        super().__init__()
        self.body, self.last = body, last

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x if self.last else x + self.body(x)


def generated(seed: int, variety: Variety) -> tuple[nn.Module, tuple[int, ...]]:
    """Return the network of a seed, and the shape of a sample."""
    draw = Draw(seed)
    torch.manual_seed(seed)
    maps = draw.random() < 0.3
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d if maps else nn.BatchNorm1d

    def linear(inputs: int, outputs: int) -> nn.Module:
        bias = draw.choice(variety.biases)
        if not maps:
            return nn.Linear(inputs, outputs, bias)
        size = draw.choice(variety.kernels)
        return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=bias)

    def local(neurons: int) -> list[nn.Module]:
        activation = draw.choice(variety.activations)
        return [*draw.choice(([], [norm(neurons)])), *([activation()] if activation else [])]

    def block() -> list[nn.Module]:
        """From WIDTH to WIDTH neurons, once or twice, one behind the other."""
        hidden = draw.choice(variety.hidden)
        kinds: dict[str, Callable[[], list[nn.Module]]] = {
            "linear": lambda: [linear(WIDTH, WIDTH)],
            "plain": lambda: [linear(WIDTH, WIDTH), *local(WIDTH)],
            "inner": lambda: [linear(WIDTH, hidden), *local(hidden), linear(hidden, WIDTH)],
            "through": lambda: [
                linear(WIDTH, hidden),
                *([nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)] if maps else []),
                *local(hidden),
                linear(hidden, WIDTH),
                norm(WIDTH),
            ],
        }
        kind, made = kinds[draw.choice(list(kinds))], []
        for _ in range(draw.choice((1, 1, 2))):
            body = nn.Sequential(*kind())
            made.append(body if draw.random() < 0.3 else Shortcut(body, draw.random() < 0.5))
        return made

    layers = [linear(2, WIDTH), *local(WIDTH)]
    for _ in range(draw.randint(1, variety.blocks)):
        layers += block()
    if maps:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    layers.append(nn.Linear(WIDTH, 3, bias=draw.random() < 0.5))
    return nn.Sequential(*layers), (2, 4, 4) if maps else (2,)


def cut(graph: NeuronGraph, seed: int) -> list[list[int]]:
    """Return how many neurons of each layer each piece owns, of two or three pieces.

    The first owns the input and the output layer, and nothing else in half of the networks.
    """
    draw = Draw(seed)
    pieces, alone = draw.randint(2, 3), draw.random() < 0.5
    counts = [[0] * len(graph.layers) for _ in range(pieces)]
    for layer in graph.layers:
        if layer.index in (0, len(graph.layers) - 1):
            counts[0][layer.index] = layer.neurons
            continue
        owners = range(1 if alone else 0, pieces)
        bounds = sorted(draw.choices((0, layer.neurons // 2, layer.neurons), k=len(owners) - 1))
        for piece, (start, stop) in zip(owners, pairwise([0, *bounds, layer.neurons]), strict=True):
            counts[piece][layer.index] = stop - start
    return [count for count in counts if any(count)]
