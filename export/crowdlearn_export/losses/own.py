"""A loss that is a user's own function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.user_code import imported

from .base import Loss

TAKES = ("numbers", "shares", "classes")
ROWS = 3
"""Samples on which a function is tried."""


@dataclass(frozen=True)
class OwnLoss(Loss):
    """The function `file.py:name` or `package.module:name` of scores [B, ...] and targets, which gives the
    loss of each sample, [B].

    It is traced like a model, so that it may use what the compiler lowers. It `takes` numbers or shares from
    0 to 1, one for each score, or classes, one for each row of scores. `source` is the hash of the file.
    """

    kind: ClassVar[str] = "own"
    function: str = ""
    takes: str = "numbers"
    source: str = ""

    def __post_init__(self) -> None:
        file = Path(self.function.rpartition(":")[0])
        if not self.source and file.suffix == ".py" and file.is_file():
            object.__setattr__(self, "source", hashlib.sha256(file.read_bytes()).hexdigest())

    def targets(self, outputs: int, *inner: int) -> TargetSpec:
        if self.takes == "classes":
            spec = TargetSpec("int64", (outputs, *inner)[:-1])
        else:
            ends = (0.0, 1.0) if self.takes == "shares" else (None, None)
            spec = TargetSpec("float32", (outputs, *inner), *ends)
        self._try(spec, (outputs, *inner))
        return spec

    def value(self, scores: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        return loaded(self.function)(scores, targets).sum() * scale

    def reference(self, scores: Tensor, targets: Tensor) -> Tensor:
        return loaded(self.function)(scores, targets).sum()

    def _try(self, spec: TargetSpec, outputs: tuple[int, ...]) -> None:
        """Raise UnsupportedModule if the function gives no loss that can be learned."""
        draw = torch.Generator().manual_seed(0)
        scores = torch.randn(ROWS, *outputs, generator=draw).requires_grad_()
        shape = (ROWS, *spec.shape)
        targets = torch.rand(shape, generator=draw)
        if spec.are_classes:
            targets = torch.randint(0, outputs[-1], shape, generator=draw)
        try:
            found = loaded(self.function)(scores, targets)
        except UnsupportedModule:
            raise
        except Exception as error:  # whatever a user's function raises
            raise UnsupportedModule(
                f"the loss {self.function} fails on scores {tuple(scores.shape)} and targets {shape}: {error}"
            ) from error
        if not isinstance(found, Tensor) or found.shape[:1] != (ROWS,):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UnsupportedModule(
                f"the loss {self.function} gives {given} for {ROWS} samples; it must give the loss of each"
            )
        slope = (
            torch.autograd.grad(found.sum(), scores, allow_unused=True)[0] if found.requires_grad else None
        )
        if slope is None or not slope.any():
            raise UnsupportedModule(
                f"the loss {self.function} is constant: no score changes it; nothing could be learned"
            )


@cache
def loaded(function: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Import the function of this name: of scores [B, ...] and targets [B, ...], it gives losses [B].

    Raises UnsupportedModule if there is none.
    """
    try:
        own: Callable[[Tensor, Tensor], Tensor] = imported(function)
    except Exception as error:  # importing runs a user's code
        raise UnsupportedModule(
            f"the loss {function!r} cannot be imported ({error}); give loss = "
            '{kind = "own", function = "file.py:name"}'
        ) from error
    return own
