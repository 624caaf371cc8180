"""Dropout in a whole model's step: its factors are inputs, since a program holds no random numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.protocol.schedule import dropout_mask
from torch import Tensor, nn

from crowdlearn_export.errors import LoweringError
from crowdlearn_export.graph.dropping import DROPS, Drop, drop_of

FUNCTIONS = {
    nn.Dropout: F.dropout,
    nn.Dropout1d: F.dropout1d,
    nn.Dropout2d: F.dropout2d,
    nn.Dropout3d: F.dropout3d,
    nn.AlphaDropout: F.alpha_dropout,
    nn.FeatureAlphaDropout: F.feature_alpha_dropout,
}
"""The functions that modules call which drop."""
FACTORS = "factors"


def masks(dropped: Mapping[str, Drop], rows: int, *, seed: int, step: int) -> list[np.ndarray]:
    """Return the factors (0 or 1/(1-p)) of every dropout for one step, float32 [rows, *shape]; the same for
    equal `seed` and `step`.
    """
    return [
        dropout_mask(
            rows, prod(drop.shape), drop.probability, seed=seed, step=step, micro=0, layer=number
        ).reshape(rows, *drop.shape)
        for number, drop in enumerate(dropped.values())
    ]


def with_factors(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, dict[str, Drop]]:
    """Return a copy of the model whose active dropouts drop by a buffer `<name>.factors`, and what they are.

    Raises LoweringError for a dropout of a kind of its own, or one that is called more than once.
    Factors are float32 [B, ...].
    """
    active = {
        name: module
        for name, module in model.named_modules()
        if module.training and isinstance(module, nn.modules.dropout._DropoutNd) and module.p
    }
    for name, module in active.items():
        if type(module) not in FUNCTIONS or module.p >= 1:
            raise LoweringError(f"{name} ({type(module).__name__}): use Dropout or Dropout2d with p below 1")
    replaced = copy.deepcopy(model)
    shapes = _shapes(model, inputs, active) if active else {}
    dropped = {}
    for name, module in active.items():
        if len(shapes[name]) > 1:
            raise LoweringError(f"{name} is called {len(shapes[name])} times; give each a dropout of its own")
        if shapes[name]:
            (shape,) = shapes[name]
            by_factors, channels = DROPS[FUNCTIONS[type(module)]]
            dropped[name] = drop_of(module.p, shape, channels=channels)
            replaced.set_submodule(name, _Dropping(by_factors, module.p))
    return replaced, dropped


def _shapes(model: nn.Module, inputs: Tensor, names: Iterable[str]) -> dict[str, list[tuple[int, ...]]]:
    """Return what the submodules at `names` are given, sample by sample."""
    watched = copy.deepcopy(model)
    shapes: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}
    for name, found in shapes.items():

        def see(_: nn.Module, given: tuple[Tensor, ...], found: list[tuple[int, ...]] = found) -> None:
            found.append(tuple(given[0].shape[1:]))

        watched.get_submodule(name).register_forward_pre_hook(see)
    with torch.no_grad():
        watched(inputs)
    return shapes


class _Dropping(nn.Module):
    """A module that drops by factors that the step is given."""

    def __init__(self, by_factors: Callable[..., Tensor], probability: float) -> None:
        super().__init__()
        self._by_factors, self._probability = by_factors, probability
        self.register_buffer(FACTORS, torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self._by_factors(x, self.get_buffer(FACTORS), self._probability)
