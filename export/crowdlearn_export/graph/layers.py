"""What layers and edges compute, as functions of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.errors import UnsupportedModule

from .activations import BY_KIND
from .neuron_graph import Edge, Layer, LocalOp, NeuronGraph


def _pair(holder: Edge | LocalOp, name: str) -> tuple[int, int]:
    pair: Any = holder.attributes[name]
    return int(pair[0]), int(pair[1])


def _per_neuron(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *(1 for _ in like.shape[2:]))


def _per_sample(mask: Tensor, like: Tensor, op: LocalOp) -> Tensor:
    """Return dropout factors as they multiply neurons: one for each of their numbers, or for a whole
    neuron.
    """
    return mask if op.attributes["shape"] else mask.reshape(-1, mask.shape[1], *(1 for _ in like.shape[2:]))


def batch_norm(x: Tensor, op: LocalOp, arrays: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training, over batch and positions: the output and the new running statistics.

    Sums are float32 [B, neurons, ...], statistics float32 [neurons].
    """
    mean, variance = (arrays[f"{op.module}.{name}"].clone() for name in ("running_mean", "running_var"))
    affine = op.attributes.get("affine", True)
    weight, bias = (arrays[f"{op.module}.{name}"] if affine else None for name in ("weight", "bias"))
    momentum, eps = float(op.attributes["momentum"]), float(op.attributes["eps"])  # type: ignore[arg-type]
    # PyTorch's own, which moves the statistics that it is given: its lowering makes the fewest passes.
    y, *_ = torch.native_batch_norm(x, weight, bias, mean, variance, True, momentum, eps)
    return y, mean, variance


def _pool(x: Tensor, op: LocalOp) -> Tensor:
    kernel, stride, padding = _pair(op, "kernel"), _pair(op, "stride"), _pair(op, "padding")
    ceil_mode = bool(op.attributes.get("ceil_mode", False))
    if op.kind == "max_pool":
        return F.max_pool2d(x, kernel, stride, padding, _pair(op, "dilation"), ceil_mode)
    return F.avg_pool2d(
        x, kernel, stride, padding, ceil_mode, bool(op.attributes.get("count_include_pad", True))
    )


def _normalized(x: Tensor, op: LocalOp, arrays: Mapping[str, Tensor]) -> Tensor:
    """Batch norm after training, or where its statistics are fixed: by its running statistics."""
    scale = torch.rsqrt(arrays[f"{op.module}.running_var"] + float(op.attributes["eps"]))  # type: ignore[arg-type]
    if op.attributes.get("affine", True):
        scale = scale * arrays[f"{op.module}.weight"]
    y = (x - _per_neuron(arrays[f"{op.module}.running_mean"], x)) * _per_neuron(scale, x)
    return y + _per_neuron(arrays[f"{op.module}.bias"], x) if op.attributes.get("affine", True) else y


def run_local(
    layer: Layer, x: Tensor, arrays: Mapping[str, Tensor], mask: Tensor | None, *, training: bool = True
) -> tuple[Tensor, list[Tensor]]:
    """Return a layer's local operations on the sums of some of its neurons, [B, neurons, ...]; and, in
    training, new running statistics.
    """
    buffers: list[Tensor] = []
    unmoved: list[Tensor] = []
    for number, op in enumerate(layer.ops):
        if op.kind == "bias" and training and _normed_next(layer.ops[number:]):
            unmoved.append(arrays[f"{op.module}.bias"].detach())  # its gradient is 0, not a sum's rounding
        elif op.kind == "bias":
            x = x + _per_neuron(arrays[f"{op.module}.bias"], x)
        elif op.kind == "batch_norm" and (op.attributes.get("fixed") or not training):
            x = _normalized(x, op, arrays)
        elif op.kind == "batch_norm":
            x, mean, variance = batch_norm(x, op, arrays)
            mean = mean + float(op.attributes["momentum"]) * sum(unmoved) if unmoved else mean  # type: ignore[arg-type]
            unmoved = []
            buffers += [mean, variance]
        elif op.kind in ("max_pool", "avg_pool"):
            x = _pool(x, op)
        elif op.kind == "flatten":
            x = x.reshape(x.shape[0], x.shape[1], -1)
        elif op.kind == "dropout":
            x = x if mask is None else x * _per_sample(mask, x, op)
        elif op.kind == "product":
            x = _product(x, op)
        elif op.kind == "scale":
            x = x * float(op.attributes["factor"])  # type: ignore[arg-type]
        elif op.kind in BY_KIND:
            x = BY_KIND[op.kind].run(x, op.attributes)
        else:
            raise UnsupportedModule(
                f"{op.module or layer.name} ({op.kind}) has no stage; it cannot be sliced"
            )
    return x, buffers


def _normed_next(ops: Sequence[LocalOp]) -> bool:
    """Return whether a batch norm that takes its own statistics comes behind these biases."""
    first = next((op for op in ops if op.kind != "bias"), None)
    return first is not None and first.kind == "batch_norm" and not first.attributes.get("fixed")


def _placed(edge: Edge, x: Tensor) -> Tensor:
    """Return outputs as they are; for a product, a factor's [B, neurons, ...] side by side with zeros in the
    place of the other's: [B, neurons, floats of both].
    """
    place: Any = edge.attributes.get("place")
    return x if place is None else F.pad(x.reshape(*x.shape[:2], -1), place)


def _product(x: Tensor, op: LocalOp) -> Tensor:
    """Return the product of two factors that lie side by side, float32 [B, neurons, floats of both]."""
    shapes: Any = op.attributes["shapes"]
    first, second = (prod(shape) for shape in shapes)
    return _multiplied((x[:, :, :first], x[:, :, first : first + second]), op)


def _multiplied(factors: Sequence[Tensor], op: LocalOp) -> Tensor:
    """Return the product of two factors float32 [B, neurons, ...]."""
    shapes: Any = op.attributes["shapes"]
    rank = max(map(len, shapes))
    first, second = (
        part.reshape(-1, part.shape[1], *(shape if len(shape) == rank else (1,) * rank))
        for part, shape in zip(factors, shapes, strict=True)
    )
    return first * second


def run_edge(edge: Edge, x: Tensor, weight: Tensor | None) -> Tensor:
    """Return what outputs [B, neurons, ...] give on an edge: sums for its target neurons."""
    if weight is None:
        return _placed(edge, x)
    if edge.kind == "dense":
        return x.reshape(x.shape[0], -1) @ weight.reshape(-1, weight.shape[-1])
    stride, padding, dilation = _pair(edge, "stride"), _pair(edge, "padding"), _pair(edge, "dilation")
    if edge.kind == "depthwise":
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=weight.shape[0])
    return F.conv2d(x, weight.transpose(0, 1), None, stride, padding, dilation)


def run_layers(
    graph: NeuronGraph,
    layers: Iterable[Layer],
    sums: dict[int, Tensor],
    arrays: Mapping[str, Tensor],
    masks: Mapping[int, Tensor],
    *,
    training: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Return the scores [B, classes] of the last of `layers`, which are whole, from the sums that enter them,
    by layer; and, in training, new running statistics.
    """
    if graph.whole is not None:
        factors = [masks[layer] for layer in sorted(masks)]
        return graph.whole.run(sums[0], arrays, factors, training=training)
    buffers: list[Tensor] = []
    apart: dict[int, dict[int, Tensor]] = {}
    for layer in layers:
        mask, both = masks.get(layer.index), apart.pop(layer.index, {})
        if both:  # neither came from elsewhere: they need not lie side by side
            multiplied = _multiplied([both[side] for side in sorted(both)], layer.ops[0])
            layer = replace(layer, ops=layer.ops[1:])
        x, new = run_local(
            layer, multiplied if both else sums.pop(layer.index), arrays, mask, training=training
        )
        buffers += new
        for edge in graph.outgoing(layer.index):
            place: Any = edge.attributes.get("place")
            if place is not None and edge.target not in sums:
                apart.setdefault(edge.target, {})[place[0]] = x
                continue
            product = run_edge(edge, x, arrays.get(f"{edge.module}.weight"))
            known = sums.get(edge.target)
            sums[edge.target] = product if known is None else known + product
    return x.reshape(x.shape[0], -1), buffers
