"""A user's own metrics that devices compute: traced functions of scores and targets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.user_code import imported

ROWS = 3
"""Samples on which a function is tried."""


@dataclass(frozen=True)
class WatchedMetric:
    """The function `file.py:name` or `package.module:name` of scores [B, outputs, ...] and targets [B, ...],
    as tensors, that gives a number for each sample, [B]. `source` is the hash of the file.
    """

    function: str
    source: str = ""

    def __post_init__(self) -> None:
        file = Path(self.function.rpartition(":")[0])
        if not self.source and file.suffix == ".py" and file.is_file():
            object.__setattr__(self, "source", hashlib.sha256(file.read_bytes()).hexdigest())

    @property
    def name(self) -> str:
        return self.function.rpartition(":")[2]

    def of(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return a number of each sample, [B], of the scores' dtype."""
        return _loaded(self.function)(scores, targets).to(scores.dtype)

    def check(self, spec: TargetSpec, outputs: tuple[int, ...]) -> None:
        """Raise UnsupportedModule if the function does not give a number for each sample."""
        draw = torch.Generator().manual_seed(0)
        scores, shape = torch.randn(ROWS, *outputs, generator=draw), (ROWS, *spec.shape)
        targets = torch.rand(shape, generator=draw)
        if spec.are_classes:
            targets = torch.randint(0, outputs[-1], shape, generator=draw)
        try:
            found = self.of(scores, targets)
        except UnsupportedModule:
            raise
        except Exception as error:  # whatever a user's function raises
            raise UnsupportedModule(
                f"the metric {self.function} fails on scores {tuple(scores.shape)} and targets {shape}: "
                f"{error}; it gets tensors, as a model does"
            ) from error
        if tuple(found.shape) != (ROWS,):
            raise UnsupportedModule(
                f"the metric {self.function} gives {tuple(found.shape)} for {ROWS} samples; devices report "
                "means, so it must give one number for each"
            )


def watched_metrics(functions: Sequence[str]) -> tuple[WatchedMetric, ...]:
    """Return the metrics that devices compute, by the functions that they are.

    Raises UnsupportedModule if two have one name.
    """
    found = {metric.name: metric for metric in map(WatchedMetric, functions)}
    if len(found) < len(functions):
        raise UnsupportedModule("metrics.on_devices: two functions have one name; call one otherwise")
    return tuple(found.values())


@cache
def _loaded(function: str) -> Callable[[Tensor, Tensor], Tensor]:
    try:
        own: Callable[[Tensor, Tensor], Tensor] = imported(function)
    except Exception as error:  # importing runs a user's code
        raise UnsupportedModule(
            f"the metric {function!r} cannot be imported ({error}); name functions as file.py:name"
        ) from error
    return own
