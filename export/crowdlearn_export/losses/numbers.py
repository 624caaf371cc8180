"""Losses between numbers: one target for each output."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor

from .base import Loss


class _OfNumbers(Loss):
    """The mean over outputs of a loss of each."""

    def targets(self, outputs: int, *inner: int) -> TargetSpec:
        return TargetSpec("float32", (outputs, *inner))

    def value(self, scores: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        return self._each(scores, targets).sum() * (scale / prod(scores.shape[1:]))

    def reference(self, scores: Tensor, targets: Tensor) -> Tensor:
        return self._own(scores, targets) / prod(scores.shape[1:])

    @abstractmethod
    def _each(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the losses [B, outputs], in operators that can be lowered."""

    @abstractmethod
    def _own(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the same, by PyTorch."""


@dataclass(frozen=True)
class SquaredError(_OfNumbers):
    """The squared difference, as torch.nn.MSELoss defines it."""

    kind: ClassVar[str] = "mse"

    def _each(self, scores: Tensor, targets: Tensor) -> Tensor:
        return (scores - targets) * (scores - targets)

    def _own(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(scores, targets, reduction="sum")


@dataclass(frozen=True)
class AbsoluteError(_OfNumbers):
    """The absolute difference, as torch.nn.L1Loss defines it."""

    kind: ClassVar[str] = "l1"

    def _each(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.relu(scores - targets) + F.relu(targets - scores)

    def _own(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.l1_loss(scores, targets, reduction="sum")


@dataclass(frozen=True)
class HuberError(_OfNumbers):
    """Squared up to a difference of `delta`, and linear beyond, as torch.nn.HuberLoss defines it."""

    kind: ClassVar[str] = "huber"
    delta: float = 1.0

    def _each(self, scores: Tensor, targets: Tensor) -> Tensor:
        difference = scores - targets
        near = difference.clamp(-self.delta, self.delta)
        return near * difference - near * near * 0.5

    def _own(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.huber_loss(scores, targets, reduction="sum", delta=self.delta)


@dataclass(frozen=True)
class BinaryCrossEntropy(_OfNumbers):
    """The cross-entropy of yes or no for each output, of its score, as torch.nn.BCEWithLogitsLoss defines it.

    Targets are shares of yes, from 0 to 1: of one output, or of several labels.
    """

    kind: ClassVar[str] = "bce"
    of_logits: ClassVar[bool] = True

    def targets(self, outputs: int, *inner: int) -> TargetSpec:
        return TargetSpec("float32", (outputs, *inner), least=0.0, most=1.0)

    def _each(self, scores: Tensor, targets: Tensor) -> Tensor:
        most = F.relu(scores)
        shifted = torch.exp(-most) + torch.exp(scores - most)
        return most + shifted.log() - scores * targets

    def _own(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, targets, reduction="sum")
