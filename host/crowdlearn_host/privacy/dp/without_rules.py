"""Norms of samples' gradients of models whose modules have no rules: by how the model uses its parameters, as
programs of whole models do; or of each sample alone, as devices do then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import torch
from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.whole import Whole, rows_first
from crowdlearn_export.stages.uses.norms import Plan, norms, plan_of
from crowdlearn_export.tracing.whole import whole_graph
from torch import Tensor, nn

Summed = Callable[[Tensor], dict[nn.Parameter, Tensor]]
"""A function from a factor for each sample [B] to the sums over samples of scaled gradients."""
_known: WeakKeyDictionary[nn.Module, tuple[Whole, Plan] | None] = WeakKeyDictionary()


def backward_without_rules(
    model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[Tensor, Summed]:
    """Return squared norms [B] of a mini-batch [B, ...], and the sums of clipped gradients."""
    planned = _planned(model, inputs.shape[1:])
    if planned is None:
        return _alone(model, loss, inputs)
    whole, plan = planned
    state = model.state_dict(keep_vars=True)
    arrays = {each.name: state[each.name].detach().reshape(rows_first(each.shape)) for each in whole.arrays}
    factors = [
        (torch.rand(len(inputs), *drop.shape) >= drop.probability).float() / (1 - drop.probability)
        for drop in whole.drops
    ]
    found = norms(whole, plan, inputs, arrays, factors, lambda scores: loss(scores).sum())
    squared = torch.zeros(len(inputs))
    for ghost in found.ghosts.values():
        squared = squared + ghost.squared

    def summed(factors: Tensor) -> dict[nn.Parameter, Tensor]:
        return {
            state[name]: ghost.summed(factors).reshape(state[name].shape)
            for name, ghost in found.ghosts.items()
        }

    return squared, summed


def _planned(model: nn.Module, sample: Sequence[int]) -> tuple[Whole, Plan] | None:
    """Return the model as a whole, and its uses; None if norms do not follow from these."""
    if model not in _known:
        try:
            graph = whole_graph(model, sample)
        except UnsupportedModule:
            _known[model] = None
            return None
        plan = plan_of(graph)
        _known[model] = None if graph.whole is None or plan.unknown else (graph.whole, plan)
    return _known[model]


def _alone(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Summed]:
    """Return squared norms [B] of samples that run one by one, and the sums of clipped gradients."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    scores = [model(inputs[row : row + 1]) for row in range(len(inputs))]
    together = torch.cat(scores).detach().requires_grad_()
    (errors,) = torch.autograd.grad(loss(together).sum(), together)

    def gradient(row: int) -> Sequence[Tensor]:
        error = errors[row : row + 1]
        return torch.autograd.grad(scores[row], learning, error, retain_graph=True, materialize_grads=True)

    def summed(factors: Tensor) -> dict[nn.Parameter, Tensor]:
        sums = {parameter: torch.zeros_like(parameter) for parameter in learning}
        for row, factor in enumerate(factors):
            for parameter, own in zip(learning, gradient(row), strict=True):
                sums[parameter].add_(factor * own)
        return sums

    squared = [
        sum((own.square().sum() for own in gradient(row)), torch.zeros(())) for row in range(len(inputs))
    ]
    return torch.stack(squared), summed
