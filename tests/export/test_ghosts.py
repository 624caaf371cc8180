"""Programs that give the norms of samples' gradients: what they give is what autograd gives of each alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.optimizers.sgd import Sgd
from crowdlearn_device.piece.private_steps import Clipping
from crowdlearn_device.privacy.dp.draws import Draws
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.weights import neurons_first
from crowdlearn_export.program.slice_program import export_slice
from crowdlearn_export.stages.piece_stages import unknown_norms
from crowdlearn_export.tracing.trace import neuron_graph
from torch import nn
from torch.nn import functional as F

from .test_sliced_training import RATE, Counting, Made, deliver, make_pieces, merged

BATCH = 12


class Residual(nn.Module):
    """Two biases, a skip, strides, dilation, padding, and few places of many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, stride=2, padding=1)
        self.body = nn.Conv2d(5, 5, 3, padding=2, dilation=2)
        self.skip = nn.Conv2d(5, 5, 1, bias=False)
        self.wide = nn.Conv2d(5, 24, 3)
        self.head = nn.Linear(24 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.stem(x))
        x = torch.tanh(self.wide(torch.relu(self.body(x) + self.skip(x))))
        return self.head(x.flatten(1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4, bias=False), nn.Tanh(), nn.Linear(4, 3))


def frozen() -> nn.Module:
    model = dense()
    model[2].requires_grad_(False)
    model[0].bias.requires_grad_(False)
    return model


CASES: dict[str, tuple[Any, tuple[int, ...], Sequence[Sequence[Sequence[int]]]]] = {
    "dense": (dense, (6,), ([[6, 9, 4, 3]], [[6, 3, 4, 3], [0, 4, 0, 0], [0, 2, 0, 0]])),
    "frozen": (frozen, (6,), ([[6, 9, 4, 3]], [[6, 3, 1, 3], [0, 6, 3, 0]])),
    "residual": (Residual, (2, 8, 8), ([[2, 5, 5, 24, 3]], [[2, 2, 1, 9, 3], [0, 3, 4, 15, 0]])),
}


def exporting(programs: Path, executors: list[Counting]) -> Made:
    """Export pieces for steps of DP-SGD by ghost norms; `executors` gets those that run them."""

    def made(graph: NeuronGraph, owned: Sequence[int]) -> tuple[Manifest, Counting]:
        program = export_slice(graph, owned, Sgd(momentum=0.9), max_batch=BATCH, private=True, cache=programs)
        assert program.manifest.squares
        executors.append(Counting(program.pte))
        return program.manifest, executors[-1]

    return made


@pytest.mark.parametrize(
    ("name", "which"), [(name, which) for name, (_, _, cuts) in CASES.items() for which in range(len(cuts))]
)
def test_pieces_clip_as_autograd_does_sample_by_sample(name: str, which: int, programs: Path) -> None:
    build, shape, cuts = CASES[name]
    torch.manual_seed(0)
    model, rng = build(), np.random.default_rng(0)
    inputs, labels = torch.randn(BATCH, *shape), torch.from_numpy(rng.integers(0, 3, BATCH))
    graph = neuron_graph(model, torch.zeros(2, *shape))
    assert not unknown_norms(graph)
    executors: list[Counting] = []
    made = exporting(programs, executors)
    gradients = own_gradients(model, inputs, labels)
    clip = float(np.median([norm(gradient) for gradient in gradients]))
    pieces = make_pieces(graph, model, cuts[which], (), made, False, Pass(0, 1), Clipping(clip, 0.0))
    first = pieces[0]
    assert first.private is not None
    first.private.draw_from(Draws(0, 0, 0, BATCH, BATCH), 0, secret=False)
    first.feed(0, 0, 1, BATCH, inputs.numpy(), labels.numpy(), 1.0)
    while any(piece.ready for piece in pieces):
        deliver(pieces, rng)
        for piece in pieces:
            assert piece.private is not None
            for receiver, told in piece.private.take_messages():
                pieces[receiver].receive_norm(piece.index, told)
    assert [piece.boundary for piece in pieces] == [1] * len(pieces)
    learned, expected = merged(graph, pieces), after_a_step(model, gradients, clip)
    for key, before in model.state_dict().items():
        assert np.abs(learned[key] - neurons_first(graph, expected)[key].numpy()).max() <= 1e-6, key
        assert model.get_parameter(key).requires_grad == bool((expected[key] != before).any())
    assert executors[0].ran["loss"] == (1 if len(pieces) == 1 else 2)
    assert all(count <= 2 for each in executors for count in each.ran.values())


def own_gradients(
    model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor
) -> list[dict[str, torch.Tensor]]:
    """Return the gradient of each sample alone, by array that learns."""
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    losses = (
        F.cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0)) for x, y in zip(inputs, labels, strict=True)
    )
    return [
        dict(zip(learning, torch.autograd.grad(loss, list(learning.values())), strict=True))
        for loss in losses
    ]


def norm(gradient: dict[str, torch.Tensor]) -> float:
    return float(torch.sqrt(sum((each.square().sum() for each in gradient.values()), torch.zeros(()))))


def after_a_step(
    model: nn.Module, gradients: list[dict[str, torch.Tensor]], clip: float
) -> dict[str, torch.Tensor]:
    """Return the weights after a step of SGD by the mean of clipped gradients."""
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for gradient in gradients:
        for name, each in gradient.items():
            state[name] -= RATE * min(1.0, clip / norm(gradient)) * each / len(gradients)
    return state


def test_models_of_which_no_norm_is_known_have_none() -> None:
    graph = neuron_graph(
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.zeros(3, 4)
    )
    assert "1.weight" in unknown_norms(graph)
    assert not export_slice(graph, [4, 4, 2], Sgd(), max_batch=5, private=True).manifest.squares
