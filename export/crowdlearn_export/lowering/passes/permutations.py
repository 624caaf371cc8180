"""Permutations are carried along, not carried out.

Rules speak of maps as [B, C, H, W] and compute on rows [B, H * W, C]. Replaying a graph with permutations as
annotations brings those of neighbouring rules together, where they cancel. Every other value stays
contiguous, which is what views in ExecuTorch need to be free.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

aten = torch.ops.aten


@dataclass(frozen=True)
class Permuted:
    """The tensor `base.permute(dims)`, not yet made; `base` is contiguous."""

    base: Tensor
    dims: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape[d] for d in self.dims)

    def permute(self, dims: Sequence[int]) -> Permuted:
        return Permuted(self.base, tuple(self.dims[d] for d in dims))

    def made(self) -> Tensor:
        """Return the tensor itself: a view where only dimensions of size 1 move, a copy otherwise.

        It is of any dtype and shape [...].
        """
        moved = [
            d for d in self.dims if not (isinstance(self.base.shape[d], int) and self.base.shape[d] == 1)
        ]
        if self.dims == tuple(range(len(self.dims))):
            return self.base
        if moved == sorted(moved):
            return self.base.reshape(self.shape)
        return self.base.permute(self.dims).contiguous()


@dataclass(frozen=True)
class Expanded:
    """The tensor `value.expand(shape)`, not yet made: operations on each element broadcast as well."""

    value: Any
    shape: tuple[Any, ...]

    def made(self) -> Tensor:
        """Return the tensor itself, a copy of any dtype and shape [...]."""
        return made(self.value).expand(self.shape).contiguous()


Value = Tensor | Permuted | Expanded


class Permutations(torch.fx.Interpreter):
    """The replay of a graph under a tracer."""

    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if node.target is aten.copy_.default:
            # From here on the buffer that a rule wrote to is the new value: nothing is written in place.
            self.env[node.all_input_nodes[0]] = result
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = HANDLERS.get(target)
        if handler is not None:
            return handler(*args, **kwargs)
        if isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags:
            return pointwise(target, args, kwargs)
        out = super().call_function(target, map_aggregate(args, made), map_aggregate(kwargs, made))
        return out.contiguous() if target in VIEWS else out

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return map_aggregate(args[0], made)


def made(value: Any) -> Any:
    """Return `value`, or the tensor if it is a permutation or an expansion not yet made."""
    return value.made() if isinstance(value, (Permuted, Expanded)) else value


def lazy(value: Value) -> Permuted:
    """Return `value` as a permutation."""
    value = made(value) if isinstance(value, Expanded) else value
    return value if isinstance(value, Permuted) else Permuted(value, tuple(range(value.dim())))


def pointwise(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Value:
    """Apply an operation on each element, which commutes with a permutation; the other operands are permuted
    back to meet it. They meet in the layout of the last one: where gradients are multiplied by values of the
    forward pass, one permutation of the gradient is cheaper than one of each value.
    """
    expanded = [a for a in args if isinstance(a, Expanded)]
    if expanded:
        shape = expanded[0].shape
        others = [a for a in args if isinstance(a, (Tensor, Permuted)) and len(a.shape)]
        inner = tuple(a.value if isinstance(a, Expanded) else a for a in args)
        if not others and all(a.shape == shape for a in expanded):
            return Expanded(pointwise(target, inner, kwargs), shape)
        whole = any(tuple(a.shape) == shape for a in others)
        return pointwise(target, inner if whole else tuple(map(made, args)), kwargs)
    permuted = [a for a in args if isinstance(a, Permuted)]
    if not permuted:
        return target(*args, **kwargs)
    dims = max(reversed(permuted), key=lambda p: len(p.dims)).dims
    if any(isinstance(a, Tensor) and a.dim() > len(dims) for a in args):
        return target(*map_aggregate(args, made), **kwargs)
    inverse = sorted(range(len(dims)), key=lambda d: dims[d])

    def meet(value: Any) -> Any:
        if not isinstance(value, (Tensor, Permuted)) or (isinstance(value, Tensor) and value.dim() == 0):
            return value
        missing = len(dims) - len(value.shape)
        if missing:
            tensor = made(value)
            value = tensor.reshape([1] * missing + list(tensor.shape))
        return lazy(value).permute(inverse).made()

    return Permuted(target(*(meet(a) for a in args), **kwargs), dims)


def permute(x: Value, dims: Sequence[int]) -> Value:
    if isinstance(x, Expanded) and len(x.value.shape) == len(dims):
        return Expanded(permute(x.value, dims), tuple(x.shape[d % len(dims)] for d in dims))
    return lazy(x).permute([d % len(dims) for d in dims])


def transpose(x: Value, first: int, second: int) -> Value:
    dims = list(range(len(x.shape)))
    dims[first], dims[second] = dims[second], dims[first]
    return permute(x, dims)


def t(x: Value) -> Value:
    return x if len(x.shape) < 2 else transpose(x, 0, 1)


def view(x: Value, shape: Sequence[int]) -> Tensor:
    return made(x).reshape(shape)


def unsqueeze(x: Value, dim: int) -> Tensor:
    shape = list(x.shape)
    shape.insert(dim % (len(shape) + 1), 1)
    return view(x, shape)


def squeeze(x: Value, dims: int | Sequence[int]) -> Tensor:
    gone = {d % len(x.shape) for d in ([dims] if isinstance(dims, int) else dims)}
    return view(x, [s for d, s in enumerate(x.shape) if d not in gone or s != 1])


def same(x: Value, **_: Any) -> Value:
    return x


def expand(x: Value, shape: Sequence[int], **_: Any) -> Value:
    """Return an expansion, which is made where something reads it as a whole; `x` itself if it is none."""
    if len(shape) != len(x.shape):
        return made(x).expand(shape).contiguous()
    if all(new in (-1, old) for new, old in zip(shape, x.shape, strict=True)):
        return x
    sizes = tuple(old if new == -1 else new for new, old in zip(shape, x.shape, strict=True))
    return Expanded(x.value if isinstance(x, Expanded) else x, sizes)


def sym_size(x: Value, dim: int) -> int:
    return x.shape[dim]


def split(x: Value, size: int | Sequence[int], dim: int = 0) -> Sequence[Value]:
    """Return slices; one that is the whole is `x` itself."""
    whole = x.shape[dim]
    sizes = [size] * -(-whole // size) if isinstance(size, int) else size
    if len(sizes) == 1:
        return [x]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [made(x).narrow(dim, start, s).contiguous() for start, s in zip(starts, sizes, strict=True)]


def filled(x: Value, value: float, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    tensor = made(x)
    return tensor.new_full(tensor.shape, value, dtype=dtype)


def copy_(buffer: Value, value: Value, non_blocking: bool = False) -> Value:
    return value


def cat(values: Sequence[Value], dim: int = 0) -> Value:
    """Join the parts; equal permutations of them are one of the whole."""
    parts = [lazy(v) for v in values]
    dims = parts[0].dims
    if any(p.dims != dims for p in parts):
        return torch.cat([p.made() for p in parts], dim)
    return Permuted(torch.cat([p.base for p in parts], dims[dim]), dims)


def reduction(target: Any) -> Callable[..., Value]:
    """Return a sum or mean over some dimensions, which leaves the others in their order.

    Neighbours that both stay or both go are one dimension: over several, ExecuTorch walks element by element,
    twenty times slower.
    """

    def reduce(x: Value, dims: Sequence[int] | None = None, keepdim: bool = False, **kwargs: Any) -> Value:
        source = lazy(x)
        rank = len(source.dims)
        gone = {source.dims[d % rank] for d in (dims or range(rank))}
        shape: list[Any] = []
        for d, size in enumerate(source.base.shape):
            if d and (d in gone) == (d - 1 in gone):
                shape[-1] = shape[-1] * size
            else:
                shape.append(size)
        first = 0 if 0 in gone else 1
        out = target(source.base.reshape(shape), list(range(first, len(shape), 2)), **kwargs)
        if keepdim:
            return Permuted(
                out.reshape([1 if d in gone else s for d, s in enumerate(source.base.shape)]), source.dims
            )
        kept = [d for d in source.dims if d not in gone]
        order = sorted(kept)
        return Permuted(
            out.reshape([source.base.shape[d] for d in order]), tuple(order.index(d) for d in kept)
        )

    return reduce


VIEWS = (aten.slice.Tensor, aten.select.int)

HANDLERS: dict[Any, Callable[..., Any]] = {
    operator.getitem: operator.getitem,
    aten.permute.default: permute,
    aten.transpose.int: transpose,
    aten.t.default: t,
    aten.view.default: view,
    aten._unsafe_view.default: view,
    aten.reshape.default: view,
    aten.unsqueeze.default: unsqueeze,
    aten.squeeze.dim: squeeze,
    aten.squeeze.dims: squeeze,
    aten.clone.default: same,
    aten.expand.default: expand,
    aten.detach.default: same,
    aten.alias.default: same,
    aten.lift_fresh_copy.default: same,
    aten.sym_size.int: sym_size,
    aten.copy_.default: copy_,
    aten.fill.Scalar: filled,
    aten.full_like.default: filled,
    aten.ones_like.default: partial(filled, value=1.0),
    aten.zeros_like.default: partial(filled, value=0.0),
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split,
    aten.cat.default: cat,
    aten.sum.dim_IntList: reduction(aten.sum.dim_IntList),
    aten.mean.dim: reduction(aten.mean.dim),
}
