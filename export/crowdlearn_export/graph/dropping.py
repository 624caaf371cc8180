"""Dropout by factors that are drawn outside of a program: 0, or 1 / (1 - p)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch.nn.functional as F
from torch import Tensor

LEAST = -1.7580993408473766
"""The least value of SELU, to which AlphaDropout sets what it drops."""


@dataclass(frozen=True)
class Drop:
    """A dropout: its probability, and the shape of one sample's factors."""

    probability: float
    shape: tuple[int, ...]


def scaled(x: Tensor, factors: Tensor, p: float) -> Tensor:
    """Drop as nn.Dropout does. Activations and factors are float32 [B, ...]; `p` is the share that goes."""
    return x * factors


def normal(x: Tensor, factors: Tensor, p: float) -> Tensor:
    """Drop as nn.AlphaDropout does, so that mean 0 and variance 1 stay.

    Activations and factors are float32 [B, ...]; `p` is the share that goes.
    """
    kept = factors * (1 - p)
    spread = 1 / sqrt((1 - p) * (1 + p * LEAST * LEAST))
    return x * (kept * spread) + ((1 - kept) * (LEAST * spread) - LEAST * spread * p)


DROPS: Mapping[Any, tuple[Callable[[Tensor, Tensor, float], Tensor], bool]] = {
    F.dropout: (scaled, False),
    F.dropout1d: (scaled, True),
    F.dropout2d: (scaled, True),
    F.dropout3d: (scaled, True),
    F.alpha_dropout: (normal, False),
    F.feature_alpha_dropout: (normal, True),
}
"""The use that functions which drop make of factors, and whether they drop whole channels."""


def given(args: Sequence[Any], kwargs: Mapping[str, Any], place: int, name: str, usual: Any) -> Any:
    """Return an argument of a call: by its place, or by its name; `usual` if it has none."""
    return args[place] if len(args) > place else kwargs.get(name, usual)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors [...] among the arguments of a call, in lists, tuples and dictionaries, too."""
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from tensors_in(each)
        elif isinstance(each, dict):
            yield from tensors_in(each.values())


def drop_of(probability: float, shape: Sequence[int], *, channels: bool) -> Drop:
    """Return the dropout of activations [B, *shape]."""
    return Drop(probability, (shape[0], *(1 for _ in shape[1:])) if channels else tuple(shape))
