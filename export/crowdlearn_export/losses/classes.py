"""Cross-entropy over classes, one a sample or one at each of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from crowdlearn_device.protocol.targets import IGNORED, TargetSpec
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

from .base import Loss


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The cross-entropy of a class, as torch.nn.CrossEntropyLoss defines it, one a sample or, of scores
    [positions, classes], one a position; positions of class IGNORED do not count.

    `label_smoothing` is the share of the target that is spread over all classes, `class_weights` by how much
    each counts (none: all alike).
    """

    kind: ClassVar[str] = "cross_entropy"
    of_logits: ClassVar[bool] = True
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def targets(self, outputs: int, *inner: int) -> TargetSpec:
        *positions, classes = outputs, *inner
        if classes < 2:
            raise UnsupportedModule(
                "the model gives one score, and the cross-entropy of one class is always 0; give one score "
                'for each class, as two for yes and no, or train with loss = "bce" or "mse"'
            )
        if self.class_weights and len(self.class_weights) != classes:
            raise UnsupportedModule(
                f"class_weights are {len(self.class_weights)} and the model has {classes} classes; "
                "give one for each"
            )
        return TargetSpec("int64", tuple(positions), weights=self.class_weights)

    def value(self, scores: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        classes = scores.shape[-1]
        hot = (targets.unsqueeze(-1) == torch.arange(classes)).to(scores.dtype)
        if self.class_weights:
            hot = hot * torch.tensor(self.class_weights, dtype=scores.dtype)
        if self.label_smoothing:
            spread = self.label_smoothing / classes
            each = torch.tensor(self.class_weights or (1.0,), dtype=scores.dtype) * spread
            if targets.dim() > 1:
                each = each * (targets.unsqueeze(-1) >= 0).to(scores.dtype)
            hot = hot * (1 - self.label_smoothing) + each
        shifted = scores - scores.amax(-1, keepdim=True)
        return ((shifted.exp().sum(-1, keepdim=True).log() - shifted) * hot).sum() * scale

    def reference(self, scores: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            scores.reshape(-1, scores.shape[-1]),
            targets.reshape(-1),
            torch.tensor(self.class_weights, dtype=scores.dtype) if self.class_weights else None,
            reduction="sum",
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
        )
