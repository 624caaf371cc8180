"""Steps of DP-SGD of models that one device runs as a whole: norms and clipped sums are those of autograd."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crowdlearn_device.piece.private_steps import Clipping
from crowdlearn_device.privacy.dp.draws import Draws
from crowdlearn_device.protocol.schedule import Pass
from crowdlearn_export.stages.piece_stages import unknown_norms
from crowdlearn_export.tracing.whole import whole_graph
from torch import nn

from .test_ghosts import BATCH, after_a_step, exporting, norm, own_gradients
from .test_sliced_training import Counting, make_pieces, merged

WORDS = 9


class Positions(nn.Module):
    """Learned positions and class token, attention, layer norms; the output shares a padded embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 8, padding_idx=0)
        self.places = nn.Embedding(5, 8)
        self.first = nn.Parameter(torch.randn(1, 1, 8) / 10)
        self.mix = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), self.words(x)], 1)
        x = self.mix(x + self.places(torch.arange(5)))
        return nn.functional.linear(self.norm(x[:, 0]), self.words.weight)


class RmsMixer(nn.Module):
    """Scales of root mean squares, written out and as PyTorch has them, and a shared map of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 6)
        self.norm = nn.RMSNorm(6, eps=1e-6)
        self.scale = nn.Parameter(torch.ones(6))
        self.twice = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.twice(self.norm(self.up(x))))
        x = self.twice(x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale)
        return self.head(x.mean(1))


def images() -> nn.Module:
    """A group norm, a depthwise convolution and one in groups, and a layer norm over maps."""
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, stride=2, padding=1), nn.GroupNorm(4, 8), nn.Tanh()),
        *(nn.Conv2d(8, 8, 3, groups=8), nn.Tanh(), nn.Conv2d(8, 12, 1, groups=2), nn.LayerNorm([12, 2, 2])),
        *(nn.Flatten(), nn.Linear(48, 3)),
    )


def signals() -> nn.Module:
    """Convolutions over one axis; a scale and weights that rest between others that learn."""
    model = nn.Sequential(
        *(nn.Conv1d(2, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.Tanh()),
        *(nn.Conv1d(6, 4, 3, stride=2, bias=False), nn.Flatten(), nn.Linear(12, 3)),
    )
    model[1].weight.requires_grad_(False)
    model[3].requires_grad_(False)
    return model


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "positions": (Positions, (4,), WORDS),
    "rms": (RmsMixer, (5, 3), 0),
    "images": (images, (2, 8, 8), 0),
    "signals": (signals, (2, 8), 0),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.nightly] if name == "rms" else []) for name in CASES]
)
def test_one_call_clips_as_autograd_does_sample_by_sample(name: str, programs: Path) -> None:
    build, shape, words = CASES[name]
    torch.manual_seed(0)
    model, rng = build(), np.random.default_rng(0)
    inputs = torch.randint(0, words, (BATCH, *shape)) if words else torch.randn(BATCH, *shape)
    labels = torch.from_numpy(rng.integers(0, 3, BATCH))
    graph = whole_graph(model, shape)
    assert not unknown_norms(graph)
    owned = [layer.neurons for layer in graph.layers]
    executors: list[Counting] = []
    made = exporting(programs, executors)
    gradients = own_gradients(model, inputs, labels)
    clip = float(np.median([norm(gradient) for gradient in gradients]))
    (piece,) = make_pieces(graph, model, [owned], (), made, False, Pass(0, 1), Clipping(clip, 0.0))
    assert piece.private is not None
    piece.private.draw_from(Draws(0, 0, 0, BATCH, BATCH), 0, secret=False)
    piece.feed(0, 0, 1, BATCH, inputs.numpy(), labels.numpy(), 1.0)
    while piece.ready:
        piece.run()
    assert piece.boundary == 1
    learned, expected = merged(graph, [piece]), after_a_step(model, gradients, clip)
    for key, value in expected.items():
        if key in learned:
            assert np.abs(learned[key].reshape(value.shape) - value.numpy()).max() <= 1e-6, key
    assert executors[0].ran["loss"] == 1


class Mixes(nn.Module):
    """A mean over the samples of a mini-batch in training, which no module does."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(4, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x).mean(1)
        return self.head(x - x.mean(0) if self.training else x)


class Powers(nn.Module):
    """An array that is used in a way that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.rand(6)), nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x ** self.scale.exp())


@pytest.mark.parametrize(
    ("model", "shape", "why"),
    [
        (Mixes(), (4,), "words.weight does not follow"),
        (Powers(), (6,), "scale is used by exp"),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4)), (4,), "mix samples"),
        (nn.GRU(2, 3), (4, 2), "used by gru"),
    ],
)
def test_what_has_no_norms_is_named(model: nn.Module, shape: tuple[int, ...], why: str) -> None:
    if isinstance(model, nn.GRU):
        model = nn.Sequential(model, Last(), nn.Linear(3, 2))
    assert why in unknown_norms(whole_graph(model, shape))


class Last(nn.Module):
    def forward(self, x: Any) -> torch.Tensor:
        return x[0][:, -1]
