"""The one verdict on a model: `doctor`, `plan`, `train` and `simulate` all take it from here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.trace import neuron_graph

FAR = 30.0
"""Inputs are also tried this much larger, where probabilities stay below 1 and scores do not."""


def trainable_graph(model: nn.Module, example: Tensor, name: str = "") -> NeuronGraph:
    """The neuron graph of a model whose slices train as it does, on the cross-entropy of its scores.

    `example` is a batch, [batch, features] or [batch, channels, H, W]. Raises UnsupportedModule naming what
    cannot be sliced, or if the model gives one score.
    """
    graph = neuron_graph(model, example, name)
    check_scores(graph.layers[-1].neurons)
    return graph


def check_scores(scores: int) -> None:
    """Raise UnsupportedModule unless cross-entropy of so many scores can be learned."""
    if scores < 2:
        raise UnsupportedModule(
            "the model gives one score, and the cross-entropy of one class is always 0; give one score for "
            "each class, as two for yes and no"
        )


def notes(model: nn.Module, inputs: Tensor) -> tuple[str, ...]:
    """Doubts about a model that trains; `inputs` are a batch of samples."""
    tried = copied(model).eval()
    with torch.no_grad():
        scores = torch.cat([tried(inputs), tried(FAR * inputs)])
    if float(scores.min()) >= 0 and float(scores.max()) <= 1:
        return (
            "the scores look like probabilities, as behind Softmax or Sigmoid; cross-entropy takes what is "
            "before that, and learns slowly from probabilities: leave the last activation out",
        )
    return ()
