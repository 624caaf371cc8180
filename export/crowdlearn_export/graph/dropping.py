"""Dropout by factors that are drawn outside of a program: 0, or 1 / (1 - p)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

LEAST = -1.7580993408473766
"""The least value of SELU, to which AlphaDropout sets what it drops."""


@dataclass(frozen=True)
class Call:
    """A call that dropped, in a batch of `rows` samples: its probability, and the shape of what it dropped,
    or, of whole `channels`, of the factors beside it.
    """

    probability: float
    sizes: tuple[int, ...]
    rows: int


@dataclass(frozen=True)
class Drop:
    """A dropout: its probability, and how samples lie in the float32 that it drops. They have `times` rows
    each along `axis`; `around` are the sizes of the other axes.
    """

    probability: float
    around: tuple[int, ...]
    axis: int = 0
    times: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one sample's factors."""
        return self.around if self.around and self.times == 1 else (self.times, *self.around)

    def beside(self, factors: Tensor) -> Tensor:
        """Return factors float32 [B, *shape] as they lie beside what is dropped."""
        rows = factors.shape[0] if self.times == 1 else factors.shape[0] * self.times
        return factors.reshape(rows, *self.around).movedim(0, self.axis)


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


def sizes_of(x: Tensor, *, channels: bool) -> tuple[int, ...]:
    """Return the shape of the factors of x float32 [...]; of whole `channels`, later axes are 1."""
    shape = tuple(x.shape)
    return (*shape[:2], *(1 for _ in shape[2:])) if channels else shape


def drop_of(call: Call, again: Call | None) -> Drop:
    """Return the dropout of a call, by which axis is another one in a batch of another size: `again`. If that
    is not known, samples lie along the first one, as they do if no axis is another one and it has one row.

    Raises UnsupportedModule if what drops does not consist of the samples' own.
    """
    sizes = call.sizes
    other = sizes if again is None else again.sizes
    if len(other) == len(sizes):
        axes = [at for at, pair in enumerate(zip(sizes, other, strict=True)) if pair[0] != pair[1]]
        if again is None or (not axes and sizes and sizes[0] == 1):
            return Drop(call.probability, sizes[1:])
        if len(axes) == 1:
            axis, times = axes[0], sizes[axes[0]] // call.rows
            if (sizes[axis], other[axis]) == (times * call.rows, times * again.rows):
                return Drop(call.probability, sizes[:axis] + sizes[axis + 1 :], axis, times)
    raise UnsupportedModule(
        f"a dropout of shape {sizes} for {call.rows} samples is not of samples, as that of weights; drop "
        "activations, of which each sample has its own"
    )
