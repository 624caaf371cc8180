"""Cross-entropy over classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from crowdlearn_device.protocol.targets import TargetSpec
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

from .base import Loss


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The cross-entropy of one class a sample, as torch.nn.CrossEntropyLoss defines it.

    `label_smoothing` is the share of the target that is spread over all classes.
    """

    kind: ClassVar[str] = "cross_entropy"
    of_logits: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def targets(self, outputs: int) -> TargetSpec:
        if outputs < 2:
            raise UnsupportedModule(
                "the model gives one score, and the cross-entropy of one class is always 0; give one score "
                'for each class, as two for yes and no, or train with loss = "bce" or "mse"'
            )
        return TargetSpec("int64", ())

    def value(self, scores: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        classes = scores.shape[1]
        hot = (targets.unsqueeze(1) == torch.arange(classes)).to(scores.dtype)
        if self.label_smoothing:
            hot = hot * (1 - self.label_smoothing) + self.label_smoothing / classes
        shifted = scores - scores.amax(1, keepdim=True)
        return ((shifted.exp().sum(1, keepdim=True).log() - shifted) * hot).sum() * scale

    def reference(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(scores, targets, reduction="sum", label_smoothing=self.label_smoothing)
