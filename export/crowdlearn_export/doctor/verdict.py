"""The one verdict on a model: `doctor`, `plan`, `train` and `simulate` all take it from here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss
from crowdlearn_export.losses.registry import CROSS_ENTROPY
from crowdlearn_export.tracing.copies import copied
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_export.tracing.whole import sample_dtype, whole_graph

from .module_reports import in_words

FAR = 30.0
"""Inputs are also tried this much larger, where probabilities stay below 1 and scores do not."""


def trainable_graph(
    model: nn.Module, example: Tensor, name: str = "", loss: Loss = CROSS_ENTROPY, *, pieces: int = 2
) -> NeuronGraph:
    """Return the graph of a model that trains in so many pieces as it does in one, on a loss of its scores:
    of neurons, or, for one piece of a model that cannot be sliced, of the whole.

    `example` is a batch, [batch, features] or [batch, channels, H, W], or of any shape for one piece. Raises
    UnsupportedModule naming what cannot be sliced, or trained, or if the loss of so many scores cannot be
    learned.
    """
    try:
        graph = neuron_graph(model, example, name)
    except UnsupportedModule as error:
        if pieces > 1:
            raise _with_a_way(model, example, error) from error
        graph = _whole(model, example, name, error)
    loss.targets(*graph.scores)
    return graph


def _with_a_way(model: nn.Module, example: Tensor, error: UnsupportedModule) -> UnsupportedModule:
    """Return the error that a model cannot be sliced, with what to do if it trains whole."""
    try:
        graph = whole_graph(model, example.shape[1:])
    except Exception:  # tracing fails in as many ways as there are models
        return error
    reason, split, supported = str(error).partition("; supported")
    if graph.whole is not None and graph.whole.integers:
        reason, split, supported = "samples are whole numbers, which no neurons hold", "", ""
    return UnsupportedModule(f"{reason}; it only trains whole: set group.pieces = 1{split}{supported}")


def _whole(model: nn.Module, example: Tensor, name: str, unsliced: UnsupportedModule) -> NeuronGraph:
    try:
        return whole_graph(model, example.shape[1:], name)
    except UnsupportedModule:
        raise
    except Exception as error:  # tracing fails in as many ways as there are models
        raise UnsupportedModule(f"{in_words(error)} (and it cannot be sliced: {unsliced})") from error


def notes(model: nn.Module, inputs: Tensor, loss: Loss = CROSS_ENTROPY) -> tuple[str, ...]:
    """Return doubts about a model that trains; `inputs` are a batch of samples. They are float32 [B, ...]."""
    if not loss.of_logits:
        return ()
    if not sample_dtype(model, inputs.shape[1:]).is_floating_point:
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
