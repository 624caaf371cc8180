"""Norms of per-sample gradients without the gradients, and the sum of the clipped ones.

The gradient of a linear map for one sample is a sum over positions of outer products of what entered and what
came back. Its norm follows from inner products of both (Goodfellow, 2015; Li, Tramer, Liang, Hashimoto,
2022). Squared norms of modules add up to that of the network: slices each compute one number a sample, and
their sum is exact. The sum of clipped gradients then is a product of what entered and errors that are scaled
sample by sample: no second pass is needed (Bu, Wang, Zha, Karypis, 2022).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from crowdlearn_export.errors import UnsupportedModule
from torch import Tensor, nn
from torch.nn import functional as F

from .without_rules import Summed, backward_without_rules

Clipped = Callable[[Tensor], list[Tensor]]
"""A function from a factor for each sample [B] to the sums over samples of scaled gradients, one for each
parameter that learns: weight, then bias.
"""

Rule = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Clipped]]
"""A function from a module, what entered [B, ...] and the errors of what left [B, ...]. It gives squared
norms [B] and the sum of clipped gradients.
"""
FEW, ALIKE = 7, 1e-3
"""Samples on which rules are tried first, and the largest relative difference of their squared norms."""
_ruled: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Backward:
    """One mini-batch after its backward pass: squared norms [B], and sums over samples of gradients times
    factors [B], by parameter that learns.
    """

    squared: Tensor
    summed: Summed

    @property
    def norms(self) -> Tensor:
        """Return the gradient norm of every sample: float [B]."""
        return self.squared.sqrt()


def backward(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor) -> Backward:
    """Run a mini-batch forward and backward. `loss` gives a number for each sample, [B], from the output.

    Raises UnsupportedModule, by name, if a module mixes samples.
    """
    check_apart(model)
    if _has_rules(model, inputs):
        return _by_rules(model, loss, inputs)
    return Backward(*backward_without_rules(model, loss, inputs))


def norms_of(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """Return the gradient norm of every sample's own loss: float [B]. Raises as `backward` does."""
    return backward(model, loss, inputs).norms


def check_apart(model: nn.Module) -> None:
    """Raise UnsupportedModule, by name, if a batch norm takes the statistics of a mini-batch."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not _rests(module, model):
            raise UnsupportedModule(
                f"{name}: batch norm mixes the samples of a mini-batch, so that none can be clipped "
                "by itself; use nn.GroupNorm or nn.LayerNorm"
            )


def _has_rule(model: nn.Module) -> bool:
    """Return whether every module with weights that learn has a rule, and weights of its own."""
    seen: set[int] = set()
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if own and (type(module) not in RULES or seen.intersection(map(id, own))):
            return False
        seen.update(map(id, own))
    return True


def _rests(module: nn.modules.batchnorm._BatchNorm, model: nn.Module) -> bool:
    return model.training and not module.training and module.running_mean is not None


def _has_rules(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether rules of modules give the norms of samples' gradients, as it shows on some samples."""
    if model not in _ruled:
        _ruled[model] = _has_rule(model) and _agrees(model, inputs[:FEW])
    return _ruled[model]


def _agrees(model: nn.Module, inputs: Tensor) -> bool:
    """Return whether norms are those of each sample alone: modules may run twice, or not on [B, ...]."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # nothing is dropped
    try:
        found = _by_rules(model, lambda scores: scores.flatten(1).square().sum(1), inputs).squared
        for row in range(len(inputs)):
            alone = model(inputs[row : row + 1]).square().sum()
            learning = [p for p in model.parameters() if p.requires_grad]
            own = torch.autograd.grad(alone, learning, materialize_grads=True)
            exact = float(sum((each.square().sum() for each in own), torch.zeros(())))
            if not abs(float(found[row]) - exact) <= ALIKE * max(exact, 1e-12):
                return False
        return True
    except (RuntimeError, UnsupportedModule):
        return False
    finally:
        for module, mode in modes:
            module.training = mode


def _by_rules(model: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor) -> Backward:
    with recorded(model) as seen:
        total = loss(model(inputs)).sum()
    kept = [(module, entered, left) for module, entered, left in seen if left.requires_grad]
    if len({module for module, _, _ in kept}) < len(kept):
        raise UnsupportedModule("a module runs twice on one sample; its gradient's norm has cross terms")
    errors = torch.autograd.grad(total, [left for _, _, left in kept])
    squared = torch.zeros(len(inputs), dtype=errors[0].dtype if errors else torch.float32)
    modules = []
    for (module, entered, _), error in zip(kept, errors, strict=True):
        own, clipped = RULES[type(module)](module, entered, error)
        squared = squared + own
        modules.append((module, clipped))

    def summed(factors: Tensor) -> dict[nn.Parameter, Tensor]:
        sums: dict[nn.Parameter, Tensor] = {}
        for module, clipped in modules:
            learning = [p for p in module.parameters(recurse=False) if p.requires_grad]
            sums.update(zip(learning, clipped(factors), strict=True))
        return sums

    return Backward(squared, summed)


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """Yield the modules with weights as they ran, what entered [B, ...] and what left [B, ...]."""
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


def _learns(parameter: object) -> bool:
    return isinstance(parameter, Tensor) and parameter.requires_grad


def _scaled(each: Tensor, factors: Tensor) -> Tensor:
    return each * factors.reshape(-1, *[1] * (each.dim() - 1))


def _linear(module: nn.Module, entered: Tensor, error: Tensor) -> tuple[Tensor, Clipped]:
    """Apply to a dense layer over any positions between."""
    a = entered.reshape(len(entered), -1, entered.shape[-1])
    d = error.reshape(len(error), -1, error.shape[-1])
    squared = torch.zeros(len(a), dtype=d.dtype)
    if _learns(module.weight):
        squared = squared + _norms(a, d)
    if _learns(module.bias):
        squared = squared + d.sum(1).square().sum(1)

    def clipped(factors: Tensor) -> list[Tensor]:
        scaled = _scaled(d, factors).reshape(-1, d.shape[2])
        weight = [scaled.T @ a.reshape(-1, a.shape[2])] if _learns(module.weight) else []
        return [*weight, *([scaled.sum(0)] if _learns(module.bias) else [])]

    return squared, clipped


def _norms(a: Tensor, d: Tensor) -> Tensor:
    """Return squared norms [B] of sums of outer products over positions, in the cheaper of two ways.

    `a` is [B, positions, sources], `d` [B, positions, targets].
    """
    positions, sources, targets = a.shape[1], a.shape[2], d.shape[2]
    if positions == 1:
        return a.square().sum((1, 2)) * d.square().sum((1, 2))
    if positions * (sources + targets) <= sources * targets:
        return (torch.bmm(a, a.mT) * torch.bmm(d, d.mT)).sum((1, 2))
    return torch.bmm(a.mT, d).square().sum((1, 2))


def _convolution(module: nn.Module, entered: Tensor, error: Tensor) -> tuple[Tensor, Clipped]:
    """Apply to a convolution, group by group of channels."""
    assert isinstance(module, nn.Conv2d)
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        raise UnsupportedModule(
            f"padding {module.padding!r} ({module.padding_mode}) has no rule; give numbers"
        )
    a = _patches(module, entered)
    batch, groups, positions, _ = a.shape
    d = error.reshape(batch, groups, -1, positions)
    squared = torch.zeros(batch, dtype=error.dtype)
    own: Tensor | None = None
    if _learns(module.weight):
        if positions * (a.shape[3] + d.shape[2]) <= a.shape[3] * d.shape[2]:
            squared = squared + (torch.matmul(a, a.mT) * torch.matmul(d.mT, d)).sum((1, 2, 3))
        else:
            own = torch.matmul(d, a)  # small: kept, so that nothing is multiplied twice
            squared = squared + own.square().sum((1, 2, 3))
    over = d.sum(3).reshape(batch, -1)
    if _learns(module.bias):
        squared = squared + over.square().sum(1)

    def clipped(factors: Tensor) -> list[Tensor]:
        sums = []
        if _learns(module.weight):
            if own is not None:
                summed = (factors @ own.reshape(batch, -1)).reshape(own.shape[1:])
            else:
                summed = torch.einsum("bgop,bgpi->goi", _scaled(d, factors), a)
            sums.append(summed.reshape(d.shape[1] * d.shape[2], -1, *module.kernel_size))
        return [*sums, *([factors @ over] if _learns(module.bias) else [])]

    return squared, clipped


def _patches(module: nn.Conv2d, entered: Tensor) -> Tensor:
    """Return what each position of a convolution reads: float [B, groups, positions, sources]."""
    assert not isinstance(module.padding, str)
    batch = len(entered)
    if any(each != 1 for each in module.dilation):
        columns = F.unfold(entered, module.kernel_size, module.dilation, module.padding, module.stride)
        return columns.reshape(batch, module.groups, -1, columns.shape[2]).mT
    high, wide = module.padding[0], module.padding[-1]
    seen = F.pad(entered, (wide, wide, high, high))
    for axis in (2, 3):
        seen = seen.unfold(axis, module.kernel_size[axis - 2], module.stride[axis - 2])
    seen = seen.reshape(batch, module.groups, -1, *seen.shape[2:]).permute(0, 1, 3, 4, 2, 5, 6)
    return seen.reshape(batch, module.groups, seen.shape[2] * seen.shape[3], -1)


def _embedding(module: nn.Module, entered: Tensor, error: Tensor) -> tuple[Tensor, Clipped]:
    """Apply to an embedding: rows that a sample reads twice add up."""
    indices = entered.reshape(len(entered), -1)
    d = error.reshape(len(error), indices.shape[1], -1)
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        d = d * (indices != module.padding_idx).unsqueeze(-1)
    same = (indices.unsqueeze(2) == indices.unsqueeze(1)).to(d.dtype)

    def clipped(factors: Tensor) -> list[Tensor]:
        rows = _scaled(d, factors).reshape(-1, d.shape[2])
        empty = torch.zeros(module.weight.shape, dtype=rows.dtype)
        return [empty.index_add(0, indices.reshape(-1), rows)]

    return (same * torch.bmm(d, d.mT)).sum((1, 2)), clipped


def _layer_norm(module: nn.Module, entered: Tensor, error: Tensor) -> tuple[Tensor, Clipped]:
    """Apply to gain and shift of a layer norm."""
    assert isinstance(module, nn.LayerNorm)
    dims = module.normalized_shape
    normal = F.layer_norm(entered, dims, eps=module.eps)
    lead = tuple(range(1, entered.dim() - len(dims)))
    return _affine(module, normal, error, lead)


def _group_norm(module: nn.Module, entered: Tensor, error: Tensor) -> tuple[Tensor, Clipped]:
    """Apply to gain and shift of a group norm, over [B, C, ...]."""
    assert isinstance(module, nn.GroupNorm)
    normal = F.group_norm(entered, module.num_groups, eps=module.eps)
    return _affine(module, normal, error, tuple(range(2, entered.dim())))


def _affine(
    module: nn.Module, normal: Tensor, error: Tensor, over: tuple[int, ...]
) -> tuple[Tensor, Clipped]:
    own = [
        each.sum(over) if over else each
        for parameter, each in ((module.weight, normal * error), (module.bias, error))
        if _learns(parameter)
    ]
    squared = torch.zeros(len(error), dtype=error.dtype)
    for each in own:
        squared = squared + each.reshape(len(error), -1).square().sum(1)
    return squared, lambda factors: [torch.tensordot(factors, each, dims=1) for each in own]


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv2d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _layer_norm,
    nn.GroupNorm: _group_norm,
}
"""The rule of every kind of module."""
