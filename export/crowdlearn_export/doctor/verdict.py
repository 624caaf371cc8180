"""The one verdict on a model: `doctor`, `plan`, `train` and `simulate` all take it from here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.trace import neuron_graph

FAR = 30.0
"""Inputs are also tried this much larger, where probabilities stay below 1 and scores do not."""


def trainable_graph(
    model: nn.Module, example: Tensor, name: str = "", loss: Loss = CROSS_ENTROPY
) -> NeuronGraph:
    """The neuron graph of a model whose slices train as it does, on a loss of its scores.

    `example` is a batch, [batch, features] or [batch, channels, H, W]. Raises UnsupportedModule naming what
    cannot be sliced, or if the loss of so many scores cannot be learned.
    """
    graph = neuron_graph(model, example, name)
    loss.targets(graph.layers[-1].neurons)
    return graph


def notes(model: nn.Module, inputs: Tensor, loss: Loss = CROSS_ENTROPY) -> tuple[str, ...]:
    """Doubts about a model that trains; `inputs` are a batch of samples. They are float32 [B, ...]."""
    if not loss.of_logits:
        return ()
    tried = copied(model).eval()
    with torch.no_grad():
        scores = torch.cat([tried(inputs), tried(FAR * inputs)])
    if float(scores.min()) >= 0 and float(scores.max()) <= 1:
        return (
            "the scores look like probabilities, as behind Softmax or Sigmoid; the loss takes what is "
            "before that, and learns slowly from probabilities: leave the last activation out",
        )
    return ()
