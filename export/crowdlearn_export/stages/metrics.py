"""The method of a user's own metrics."""

from __future__ import annotations

from dataclasses import asdict

from crowdlearn_device.program.manifest import PieceShape
from crowdlearn_device.program.ports import metrics_method
from torch import Tensor

from crowdlearn_export.losses.base import Loss

from .stage import Stage, as_stage, kind_of


def metrics_stage(shape: PieceShape, loss: Loss) -> Stage:
    """Return the method that takes scores and targets to a number of each sample for every metric."""
    spec = metrics_method(shape, [metric.name for metric in loss.watched])

    def function(scores: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        return tuple(metric.of(scores, targets) for metric in loss.watched)

    kind = kind_of({"spec": spec, "metrics": [asdict(metric) for metric in loss.watched]})
    return as_stage(spec, function, function, kind)
