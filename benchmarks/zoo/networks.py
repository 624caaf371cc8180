"""The models of the zoo, small, each with the shape of a sample and the loss that it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from crowdlearn_device.optimizers.adam import Adam, AdamW
from crowdlearn_device.optimizers.base import Optimizer
from crowdlearn_device.optimizers.sgd import Sgd
from torch import Tensor, nn

from benchmarks.models import mobilenet

SGD, ADAM, ADAMW = Sgd(momentum=0.9), Adam(), AdamW(weight_decay=0.01)


@dataclass(frozen=True)
class Kind:
    """A model of the zoo; `vocabulary` is how many whole numbers its samples hold, 0 for numbers."""

    build: Callable[[], nn.Module]
    sample: tuple[int, ...]
    loss: str = "cross_entropy"
    vocabulary: int = 0
    optimizer: Optimizer = SGD
    rate: float = 0.01


class Recurrent(nn.Module):
    """A recurrence that is told from its last step."""

    def __init__(
        self, cells: nn.Module, width: int, outputs: int, embedding: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.embedding, self.cells, self.head = embedding, cells, nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.embedding is None else self.embedding(x)
        scores: Tensor = self.head(self.cells(x)[0][:, -1])
        return scores


class LowRank(nn.Module):
    """A frozen dense layer with a branch of low rank that learns."""

    def __init__(self, layer: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down, self.up = (
            nn.Linear(layer.in_features, rank, bias=False),
            nn.Linear(rank, layer.out_features, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


class RmsNorm(nn.Module):
    """Root mean square normalization."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight


class Transformer(nn.Module):
    """One block of causal-free attention over tokens; the next token is told from the last."""

    def __init__(self, norm: Callable[[int], nn.Module], *, low_rank: bool = False) -> None:
        super().__init__()
        width = 32
        self.embedding, self.places = nn.Embedding(50, width), nn.Parameter(torch.randn(12, width) * 0.1)
        self.first, self.second = norm(width), norm(width)
        projections = [nn.Linear(width, width) for _ in range(4)]
        self.q, self.k, self.v, self.out = (LowRank(p) if low_rank else p for p in projections)
        self.wide, self.narrow = nn.Linear(width, 64), nn.Linear(64, width)
        self.head = nn.Linear(width, 50)
        if low_rank:
            for part in (self.embedding, self.wide, self.narrow):
                part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x) + self.places
        y = self.first(x)
        q, k, v = (each(y).reshape(-1, 12, 4, 8).transpose(1, 2) for each in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 12, 32)
        x = x + self.out(mixed)
        x = x + self.narrow(F.gelu(self.wide(self.second(x))))
        return self.head(x[:, -1])


class NextToken(nn.Module):
    """Scores of the next token at each position, by torch's own layers and the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 32), nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True, bias=False)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        scores: Tensor = self.head(self.blocks(self.embedding(x), mask, is_causal=True))
        return scores


class GptBlock(nn.Module):
    """A block of causal attention and two dense layers; one layer gives queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fused, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.size()
        parts = self.fused(self.first(x)).split(width, dim=2)
        q, k, v = (part.view(batch, length, 4, width // 4).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).contiguous().view(batch, length, width))
        narrow: Tensor = self.narrow(F.gelu(self.wide(self.second(x))))
        return x + narrow


class Gpt(nn.Module):
    """Scores of the next token at each position, as nanoGPT computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(12, 32)
        self.blocks = nn.Sequential(GptBlock(32), GptBlock(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 50, bias=False)
        self.tokens.weight = self.head.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        scores: Tensor = self.head(self.norm(self.blocks(y)))
        return scores


class ResidualMlp(nn.Module):
    """Dense blocks with layer norm around a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(20, 32), nn.Linear(32, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Recommender(nn.Module):
    """Whether a user likes an item: a model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(50, 16), nn.Embedding(50, 16)
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        scores: Tensor = self.head(torch.cat([self.users(user), self.items(item)], 1))
        return scores


class SqueezeExcite(nn.Module):
    """Maps weighted by what their means say."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Bag(nn.Module):
    """The mean of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x).mean(1))


def _mlp(outputs: int, norm: bool = True) -> nn.Module:
    middle = [nn.BatchNorm1d(32)] if norm else []
    return nn.Sequential(
        nn.Linear(20, 32), *middle, nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, outputs)
    )


def _low_rank_mlp() -> nn.Module:
    return nn.Sequential(
        LowRank(nn.Linear(20, 32)), nn.ReLU(), LowRank(nn.Linear(32, 16)), nn.ReLU(), nn.Linear(16, 5)
    )


def _signals() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(16, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1)),
        *(nn.Flatten(), nn.Linear(32, 6)),
    )


def _keywords() -> nn.Module:
    def block(width: int) -> list[nn.Module]:
        around = (nn.BatchNorm2d(width), nn.ReLU())
        return [
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            *around,
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]

    stem = (nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(
        *stem, *block(16), *block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 12)
    )


def _efficient() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU()),
        *(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU()),
        *(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(),
            SqueezeExcite(16),
        ),
        *(
            nn.Conv2d(16, 8, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 5),
        ),
    )


def _new_head() -> nn.Module:
    backbone = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    )
    model = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    backbone.requires_grad_(False)
    backbone.eval()
    return model


def _labels() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6)),
    )


def _down_and_up() -> nn.Module:
    """An autoencoder of images."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, 2, 1), nn.Tanh(), nn.Conv2d(8, 16, 3, 2, 1), nn.Tanh()),
        *(nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.Tanh(), nn.Upsample(scale_factor=2)),
        *(nn.Conv2d(8, 1, 3, padding=1), nn.Flatten()),
    )


def _autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 12),
        nn.Tanh(),
        nn.Linear(12, 4),
        nn.Tanh(),
        nn.Linear(4, 12),
        nn.Tanh(),
        nn.Linear(12, 20),
    )


ZOO: dict[str, Kind] = {
    "tabular MLP": Kind(lambda: _mlp(5), (20,)),
    "regression": Kind(lambda: _mlp(1, norm=False), (20,), "mse", optimizer=ADAM),
    "autoencoder": Kind(_autoencoder, (20,), "mse", optimizer=ADAM),
    "residual MLP with LayerNorm": Kind(ResidualMlp, (20,), optimizer=ADAMW),
    "MLP with LoRA": Kind(_low_rank_mlp, (20,), optimizer=ADAMW),
    "bag of embeddings": Kind(Bag, (8,), vocabulary=50, optimizer=ADAM),
    "recommender": Kind(Recommender, (2,), "bce", vocabulary=50, optimizer=ADAM),
    "HAR Conv1d": Kind(_signals, (6, 64), optimizer=ADAM),
    "keyword DS-CNN": Kind(_keywords, (1, 20, 10)),
    "multi-label CNN": Kind(_labels, (3, 16, 16), "bce"),
    "frozen backbone with new head": Kind(_new_head, (3, 16, 16)),
    "EfficientNet-like with SE": Kind(_efficient, (3, 16, 16)),
    "MobileNetV2": Kind(mobilenet, (3, 32, 32)),
    "transformer with LayerNorm": Kind(lambda: Transformer(nn.LayerNorm), (12,), vocabulary=50),
    "transformer with RMSNorm": Kind(lambda: Transformer(RmsNorm), (12,), vocabulary=50),
    "transformer with LoRA": Kind(lambda: Transformer(nn.LayerNorm, low_rank=True), (12,), vocabulary=50),
    "next token with tied weights": Kind(NextToken, (12,), vocabulary=50, optimizer=ADAMW),
    "nanoGPT": Kind(Gpt, (12,), vocabulary=50, optimizer=ADAMW, rate=0.001),
    "HAR GRU": Kind(lambda: Recurrent(nn.GRU(6, 16, batch_first=True), 16, 6), (8, 6), optimizer=ADAM),
    "HAR GRU of 100 steps": Kind(
        lambda: Recurrent(nn.GRU(6, 16, batch_first=True), 16, 6), (100, 6), optimizer=ADAM
    ),
    "HAR LSTM": Kind(lambda: Recurrent(nn.LSTM(6, 16, batch_first=True), 16, 6), (8, 6), optimizer=ADAM),
    "keyboard LSTM": Kind(
        lambda: Recurrent(nn.LSTM(16, 24, batch_first=True), 24, 50, nn.Embedding(50, 16)),
        (8,),
        vocabulary=50,
    ),
    "maps down and up": Kind(_down_and_up, (1, 16, 16), "mse", optimizer=ADAM),
}
QUICK = ("tabular MLP", "bag of embeddings")
