"""What every loss is: the targets that it takes, its value in operators that phones run, and PyTorch's own.

The loss of a mini-batch is the mean over its samples, as PyTorch's reduction="mean" gives it: of several
outputs a sample's loss is the mean over them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor

from .watched import WatchedMetric


@dataclass(frozen=True)
class Loss(ABC):
    """A function of scores [B, outputs] and targets to be made small."""

    kind: ClassVar[str]
    """The name in configurations."""
    of_logits: ClassVar[bool] = False
    """True if scores are what stands before Softmax or Sigmoid."""

    watched: tuple[WatchedMetric, ...] = field(default=(), kw_only=True)
    """A user's own metrics that devices compute of the same scores and targets."""

    @abstractmethod
    def targets(self, outputs: int, *inner: int) -> TargetSpec:
        """Return the targets of one sample, for a model of so many outputs, or of scores [outputs, *inner].

        Raises UnsupportedModule if the loss of so many outputs cannot be learned.
        """

    @abstractmethod
    def value(self, scores: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        """Return the losses of samples, summed and scaled, in operators that can be lowered.

        Scores are float32 [B, outputs, ...], targets [B, ...].
        """

    @abstractmethod
    def reference(self, scores: Tensor, targets: Tensor) -> Tensor:
        """Return the losses of samples, summed, as PyTorch computes them.

        Scores are float32 [B, outputs, ...], targets [B, ...].
        """
