"""Norms of per-sample gradients without the gradients: one number for each module and sample.

The gradient of a linear map for one sample is a sum over positions of outer products of what entered and what
came back, so that its norm follows from inner products of both (Goodfellow, 2015; Li, Tramer, Liang,
Hashimoto, 2022). Squared norms of modules add up to that of the network: of slices each tells its own number,
and their sum is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from crowdlearn_export.errors import UnsupportedModule
from torch import Tensor, nn
from torch.nn import functional as F

Rule = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A function from a module, what entered [B, ...] and the errors of what left [B, ...] to squared norms
[B].
"""


def norms_of(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the gradient norm of every sample's own loss: float [B].

    `loss` gives a number for each sample, [B], from the model's output. Raises UnsupportedModule, by name, if
    a module mixes samples or has no rule.
    """
    check_model(model)
    with _recorded(model) as seen:
        total = loss(model(inputs)).sum()
    kept = [(module, entered, left) for module, entered, left in seen if left.requires_grad]
    errors = torch.autograd.grad(total, [left for _, _, left in kept])
    squared = torch.zeros(len(inputs), dtype=inputs.dtype if inputs.is_floating_point() else torch.float32)
    for (module, entered, _), error in zip(kept, errors, strict=True):
        squared = squared + RULES[type(module)](module, entered, error)
    return squared.sqrt()


def check_model(model: nn.Module) -> None:
    """Raise UnsupportedModule unless every module with weights that learn has a rule."""
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise UnsupportedModule(
                f"{name}: batch norm mixes the samples of a mini-batch, so that none can be clipped "
                "by itself; use nn.GroupNorm or nn.LayerNorm"
            )
        if own and type(module) not in RULES:
            raise UnsupportedModule(
                f"{name} ({type(module).__name__}): no rule tells the norm of its gradient for one sample; "
                "freeze it, or write it with Linear, Conv2d, Embedding, LayerNorm or GroupNorm"
            )


@contextmanager
def _recorded(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Yield the modules with weights in the order in which they ran, what entered and what left."""
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def hook(module: nn.Module, given: tuple[Tensor, ...], left: Tensor) -> None:
        seen.append((module, given[0].detach(), left))

    learning = [m for m in model.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]
    handles = [module.register_forward_hook(hook) for module in learning]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _linear(module: nn.Module, entered: Tensor, error: Tensor) -> Tensor:
    """Return squared norms [B] of a dense layer over any positions between."""
    a = entered.reshape(len(entered), -1, entered.shape[-1])
    d = error.reshape(len(error), -1, error.shape[-1])
    return _products(module, a, d)


def _convolution(module: nn.Module, entered: Tensor, error: Tensor) -> Tensor:
    """Return squared norms [B] of a convolution, group by group of channels."""
    assert isinstance(module, nn.Conv2d)
    if isinstance(module.padding, str):
        raise UnsupportedModule(f"padding={module.padding!r} has no rule; give numbers")
    columns = F.unfold(entered, module.kernel_size, module.dilation, module.padding, module.stride)
    batch, _, positions = columns.shape
    groups = module.groups
    a = columns.reshape(batch, groups, -1, positions)
    d = error.reshape(batch, groups, -1, positions)
    squared = torch.zeros(batch, dtype=error.dtype)
    for group in range(groups):
        squared = squared + _weights(a[:, group].mT, d[:, group].mT) * module.weight.requires_grad
    if module.bias is not None and module.bias.requires_grad:
        squared = squared + error.reshape(batch, -1, positions).sum(2).square().sum(1)
    return squared


def _products(module: nn.Module, a: Tensor, d: Tensor) -> Tensor:
    """Return squared norms [B] of weight and bias from a [B, positions, sources] and d [B, positions,
    targets].
    """
    weight, bias = module.weight, module.bias
    squared = torch.zeros(len(a), dtype=d.dtype)
    if isinstance(weight, Tensor) and weight.requires_grad:
        squared = squared + _weights(a, d)
    if isinstance(bias, Tensor) and bias.requires_grad:
        squared = squared + d.sum(1).square().sum(1)
    return squared


def _weights(a: Tensor, d: Tensor) -> Tensor:
    """Return squared norms [B] of sums of outer products over positions, in the cheaper of two ways."""
    positions, sources, targets = a.shape[1], a.shape[2], d.shape[2]
    if positions * positions * (sources + targets) <= positions * sources * targets:
        return (torch.bmm(a, a.mT) * torch.bmm(d, d.mT)).sum((1, 2))
    return torch.bmm(a.mT, d).square().sum((1, 2))


def _embedding(module: nn.Module, entered: Tensor, error: Tensor) -> Tensor:
    """Return squared norms [B] of an embedding: rows that a sample reads twice add up."""
    indices = entered.reshape(len(entered), -1)
    d = error.reshape(len(error), indices.shape[1], -1)
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        d = d * (indices != module.padding_idx).unsqueeze(-1)
    same = (indices.unsqueeze(2) == indices.unsqueeze(1)).to(d.dtype)
    return (same * torch.bmm(d, d.mT)).sum((1, 2))


def _layer_norm(module: nn.Module, entered: Tensor, error: Tensor) -> Tensor:
    """Return squared norms [B] of gain and shift of a layer norm."""
    assert isinstance(module, nn.LayerNorm)
    dims = module.normalized_shape
    normal = F.layer_norm(entered, dims, eps=module.eps)
    lead = tuple(range(1, entered.dim() - len(dims)))
    return _affine(module, normal, error, lead)


def _group_norm(module: nn.Module, entered: Tensor, error: Tensor) -> Tensor:
    """Return squared norms [B] of gain and shift of a group norm, over [B, C, ...]."""
    assert isinstance(module, nn.GroupNorm)
    normal = F.group_norm(entered, module.num_groups, eps=module.eps)
    return _affine(module, normal, error, tuple(range(2, entered.dim())))


def _affine(module: nn.Module, normal: Tensor, error: Tensor, over: tuple[int, ...]) -> Tensor:
    squared = torch.zeros(len(error), dtype=error.dtype)
    for parameter, each in ((module.weight, normal * error), (module.bias, error)):
        if isinstance(parameter, Tensor) and parameter.requires_grad:
            summed = each.sum(over) if over else each
            squared = squared + summed.reshape(len(error), -1).square().sum(1)
    return squared


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
}
"""The rule of every kind of module."""
