"""Norms of samples' gradients of any model that has them, by how it uses its parameters.

So programs of whole models clip, too; modules with rules of their own are faster here.
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
_known: WeakKeyDictionary[nn.Module, tuple[Whole, Plan]] = WeakKeyDictionary()


def planned(model: nn.Module, sample: Sequence[int]) -> tuple[Whole, Plan]:
    """Return the model as a whole, and its uses. Samples are of the shape [*sample].

    Raises UnsupportedModule naming the parameter whose norms do not follow.
    """
    if model not in _known:
        graph = whole_graph(model, sample)
        assert graph.whole is not None
        _known[model] = graph.whole, plan_of(graph)
    whole, plan = _known[model]
    if plan.unknown:
        raise UnsupportedModule(
            f"{type(model).__name__}: {plan.unknown}, so that no rule gives the norm of its gradient for one "
            "sample; freeze it, or write it with Linear, Conv2d, Embedding, LayerNorm or GroupNorm"
        )
    return whole, plan


def backward_by_uses(
    model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor
) -> tuple[Tensor, Summed]:
    """Return squared norms [B] of a mini-batch [B, ...], and the sums of clipped gradients.

    Raises UnsupportedModule as `planned` does.
    """
    whole, plan = planned(model, inputs.shape[1:])
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
