"""The gate of every tracing: layers and edges must compute what the model does, and learn what it would.

Tracing sees modules and functions, and not all that they do: hooks, weights that two modules share, gradients
that are stopped, a forward that goes another way in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.freezing import STATISTICS, resting_modules, to_training
from crowdlearn_export.graph.layers import run_layers
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import neurons_first
from crowdlearn_export.ops.local_ops import describe

from .copies import copied
from .evaluation import ran
from .in_float64 import InFloat64
from .undropped import Undropped

ROWS = 5
AGREEMENT = 1e-6
"""Largest relative difference in float64, where sums are taken in another order."""
TINY = 1e-6
"""The size below which a sum is taken for one that cancels."""


def check_traced(model: nn.Module, graph: NeuronGraph, sample: Sequence[int]) -> None:
    """Compare the graph with its model on random samples of shape `sample`, in float64, without dropout:
    scores, gradients and running statistics in training, and scores in evaluation.

    Raises UnsupportedModule if they differ.
    """
    exact = copied(model)
    to_training(exact, resting_modules(exact))
    specs = array_specs(graph)
    trained, statistics, resting = (
        [spec.name for spec in specs if spec.role == role] for role in ("parameter", "buffer", "frozen")
    )
    _check_weights(exact, [*trained, *resting])
    if not trained:
        raise UnsupportedModule(
            "nothing in it learns, all is frozen (requires_grad=False); let a layer learn"
        )
    exact.double()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, *sample, dtype=torch.float64, generator=draw)
    sums = x.reshape(ROWS, graph.layers[0].neurons, *graph.layers[0].sum_shape)
    arrays = neurons_first(graph, exact.state_dict())
    weights = [arrays[name].requires_grad_() for name in trained]
    scores = _scores(exact, x)
    if scores.shape != (ROWS, graph.layers[-1].neurons):
        raise UnsupportedModule(
            f"the model gives shape {tuple(scores.shape[1:])} for a sample, its last layer has "
            f"{graph.layers[-1].neurons} neurons; end in one score for each, as Flatten and Linear give them"
        )
    along = torch.randn(scores.shape, dtype=torch.float64, generator=draw)
    due = _slopes(scores, along, [exact.get_parameter(name) for name in trained])
    expected = neurons_first(graph, {**exact.state_dict(), **dict(zip(trained, due, strict=True))})
    scores = scores.detach()  # what either keeps for its gradients is most of the memory: not both at once
    del due
    found, moved = run_layers(graph, graph.layers, {0: sums}, arrays, {})
    _compare(exact, "scores in training", found, scores)
    scale = max((float(expected[name].abs().max()) for name in trained), default=0.0)
    for name, slope in zip(trained, _slopes(found, along, weights), strict=True):
        _compare(exact, f"the gradient of {name}", slope, expected[name], scale)
    scale = max((float(expected[name].abs().max()) for name in statistics), default=0.0)
    for name, value in zip(statistics, moved, strict=True):
        _compare(exact, name, value, expected[name], scale)
        arrays[name] = value
    for name in resting:
        _compare(exact, name, arrays[name], expected[name])
    with torch.no_grad():
        found, _ = run_layers(graph, graph.layers, {0: sums}, arrays, {}, training=False)
        _compare(exact, "scores in evaluation", found, _scores(exact.eval(), x))


def _check_weights(model: nn.Module, names: Sequence[str]) -> None:
    """Raise UnsupportedModule for weights that slices would hold and the model does not, or not so."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    for name in names:
        if name.endswith(STATISTICS):
            continue
        if name not in parameters:
            raise UnsupportedModule(f"{name} is no parameter but computed; remove what computes it")
        if (other := first.setdefault(id(parameters[name]), name)) != name:
            raise UnsupportedModule(f"{name} is {other}, shared; give each its own weights")


def _scores(model: nn.Module, x: Tensor) -> Tensor:
    with Undropped(), InFloat64():
        scores: Tensor = ran(model, x)
    return scores


def _slopes(scores: Tensor, along: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    if not scores.requires_grad or not weights:
        return [torch.zeros_like(weight) for weight in weights]
    return torch.autograd.grad((scores * along).sum(), weights, materialize_grads=True)


def _compare(model: nn.Module, what: str, found: Tensor, due: Tensor, scale: float = 0.0) -> None:
    found, due = found.detach(), due.detach()
    limit = AGREEMENT * max(scale, float(due.abs().nan_to_num().max()), TINY)
    if torch.isclose(found, due, rtol=0, atol=limit, equal_nan=True).all():
        return
    hooked = [
        describe(name, module)
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    ]
    advice = (
        f"remove the hook of {', '.join(hooked)}"
        if hooked
        else "its forward must do the same at every call, in training and in evaluation, and stop no "
        "gradient (requires_grad_(False) freezes weights)"
    )
    raise UnsupportedModule(f"{type(model).__name__} sliced would not have {what} of the model; {advice}")
