"""A small transformer that tells the next token at each position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS, LENGTH, WIDTH = 64, 24, 48


class NextToken(nn.Module):
    """One block of causal attention; the head has the weights of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.block = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores float32 [B, LENGTH, TOKENS] of what follows each of the tokens int64 [B, LENGTH]."""
        ahead = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        x = self.block(self.embedding(tokens) + self.places, src_mask=ahead, is_causal=True)
        scores: Tensor = self.head(self.norm(x))
        return scores


def build() -> nn.Module:
    """The network that every device starts from."""
    return NextToken()
