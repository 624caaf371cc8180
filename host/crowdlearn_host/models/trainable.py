"""A model with its loss, as training takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crowdlearn_device.data.dataset import Dataset, as_targets
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_export.doctor.verdict import trainable_graph
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.watched import WatchedMetric
from torch import Tensor, nn


@dataclass(frozen=True)
class Trainable:
    """A model that trains with a loss, its graph, and the targets that the loss takes."""

    model: nn.Module
    loss: Loss
    graph: NeuronGraph
    targets: TargetSpec

    @property
    def outputs(self) -> int:
        """Return the scores of a sample or, where it has several positions, of each."""
        return self.graph.scores[-1]

    @property
    def takes_codes(self) -> bool:
        """Return whether samples are codes, as tokens are, and not numbers."""
        return self.graph.whole is not None and self.graph.whole.integers

    def with_targets(self, data: Dataset, source: str) -> Dataset:
        """Return the data with targets as the loss takes them. Raises DataError, which names `source`."""
        return Dataset(data.inputs, as_targets(data.labels, self.targets, self.outputs, source))


def trainable(
    model: nn.Module,
    loss: Loss,
    example: Tensor,
    source: str,
    *,
    pieces: int,
    watched: Sequence[WatchedMetric] = (),
) -> Trainable:
    """Return a model that trains with a loss. `example` is a few samples, [B, *shape]; more `pieces` than one
    ask for a model that slices; `watched` are a user's own metrics that devices compute.

    Raises ExportError, which names `source`, if the model does not train so, or if a metric does not take its
    scores.
    """
    graph = trainable_graph(model, example, source, loss, pieces=pieces)
    targets = loss.targets(*graph.scores)
    for metric in watched:
        metric.check(targets, graph.scores)
    return Trainable(model, loss, graph, targets)
