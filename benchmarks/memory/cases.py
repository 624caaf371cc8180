"""The networks whose memory is measured, and how they are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import torch
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from torch import nn

from benchmarks.models import NETWORKS, cnn, paper_mlp


@dataclass(frozen=True)
class Case:
    """A network, the shape of one sample, and the shares of the hidden layers that each piece owns: one for
    each, or one for all.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    shares: tuple[tuple[float, ...], ...]

    def counts(self, graph: NeuronGraph) -> list[list[int]]:
        """Neurons of each piece, by layer; the first has input and output layer."""
        first, *hidden, last = (layer.neurons for layer in graph.layers)
        return [
            [
                0 if piece else first,
                *(round(share * neurons) for neurons, share in zip(hidden, cycle(shares), strict=False)),
                0 if piece else last,
            ]
            for piece, shares in enumerate(self.shares)
        ]


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


def frozen(build: Callable[[], nn.Module], last: str) -> Callable[[], nn.Module]:
    """The network with everything frozen but its last layer, and its batch norms in evaluation mode."""

    def built() -> nn.Module:
        model = build()
        model.requires_grad_(False)
        model.get_submodule(last).requires_grad_(True)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return model

    return built


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


ALONE = ((1.0,),)
CASES = {
    "dense": Case(dense, (64,), ((0.0,), (0.5,), (0.5,))),
    "dense, whole tail": Case(dense, (64,), ((0.0, 1.0), (1.0, 0.0))),
    "dense, one piece": Case(dense, (64,), ALONE),
    "convolutional": Case(convolutional, (3, 32, 32), ((0.0,), (0.5,), (0.5,))),
    "convolutional, whole tail": Case(convolutional, (3, 32, 32), ((0.0, 1.0), (1.0, 0.0))),
    "convolutional, one piece": Case(convolutional, (3, 32, 32), ALONE),
    "dense, frozen": Case(frozen(dense, "5"), (64,), ((0.0,), (0.5,), (0.5,))),
    "convolutional, frozen": Case(frozen(convolutional, "8"), (3, 32, 32), ((0.0,), (0.5,), (0.5,))),
    "residual": Case(Residual, (3, 32, 32), ((0.25,), (0.75,))),
}
LARGE = {
    "paper MLP, one piece": Case(paper_mlp, NETWORKS["paper_mlp"].sample, ALONE),
    "CNN, one piece": Case(cnn, NETWORKS["cnn"].sample, ALONE),
}
