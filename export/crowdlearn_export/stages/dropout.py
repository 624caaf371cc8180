"""Dropout in a whole model's step: its factors are inputs, since a program holds no random numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.protocol.schedule import dropout_mask
from torch import Tensor, nn

from crowdlearn_export.errors import LoweringError
from crowdlearn_export.graph.dropping import DROPS, Call, Drop, drop_of, sizes_of

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

    Raises LoweringError for a dropout of a kind of its own, or one that is called more than once. Raises
    UnsupportedModule for one of what is not of samples.
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
    calls = _calls(model, inputs, active) if active else {}
    others = _others(model, inputs, active) if active else {}
    dropped = {}
    for name, module in active.items():
        if len(calls[name]) > 1:
            raise LoweringError(f"{name} is called {len(calls[name])} times; give each a dropout of its own")
        if calls[name]:
            dropped[name] = drop_of(calls[name][0], others[name][0] if others.get(name) else None)
            replaced.set_submodule(name, _Dropping(DROPS[FUNCTIONS[type(module)]][0], dropped[name]))
    return replaced, dropped


def _calls(
    model: nn.Module, inputs: Tensor, active: Mapping[str, nn.modules.dropout._DropoutNd]
) -> dict[str, list[Call]]:
    """Return the calls of the submodules in `active`, for samples [B, ...]."""
    watched = copy.deepcopy(model)
    calls: dict[str, list[Call]] = {name: [] for name in active}
    for name, module in active.items():
        channels = DROPS[FUNCTIONS[type(module)]][1]

        def see(_: nn.Module, given: tuple[Tensor, ...], at: str = name, channels: bool = channels) -> None:
            sizes = sizes_of(given[0], channels=channels)
            calls[at].append(Call(active[at].p, sizes, len(inputs)))

        watched.get_submodule(name).register_forward_pre_hook(see)
    with torch.no_grad():
        watched(inputs)
    return calls


def _others(
    model: nn.Module, inputs: Tensor, active: Mapping[str, nn.modules.dropout._DropoutNd]
) -> dict[str, list[Call]]:
    """Return the calls for one sample more; none if the model fixes the size of the batch."""
    try:
        return _calls(model, torch.cat([inputs, inputs[:1]]), active)
    except Exception:  # models fail in as many ways as there are
        return {}


class _Dropping(nn.Module):
    """A module that drops by factors that the step is given."""

    def __init__(self, by_factors: Callable[..., Tensor], drop: Drop) -> None:
        super().__init__()
        self._by_factors, self._drop = by_factors, drop
        self.register_buffer(FACTORS, torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        given = self.get_buffer(FACTORS)
        factors = self._drop.beside(given) if given.dim() else given  # else nothing is given, and all stays
        return self._by_factors(x, factors, self._drop.probability)
