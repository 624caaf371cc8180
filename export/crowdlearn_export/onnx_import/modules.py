"""The trainable module for each kind of ONNX node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from torch import Tensor, nn

from crowdlearn_export.errors import UnsupportedModule


@dataclass(frozen=True)
class Node:
    """An ONNX node with its constant inputs looked up.

    `attributes` hold the defaults of the node's `version` too; `shape` is that of its first input, with None
    for a size that is not known, as the batch is.
    """

    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: tuple[Tensor | None, ...]
    shape: tuple[int | None, ...] | None
    version: int

    def weight(self, position: int) -> Tensor | None:
        """Return the constant at an input position; None if the input is absent. Raises where it is computed.

        It is of the file's dtype and shape [...].
        """
        if position >= len(self.inputs) or not self.inputs[position]:
            return None
        value = self.constants[position]
        if value is None:
            raise UnsupportedModule(f"input {position} must be a constant of the model")
        return value

    @property
    def sizes(self) -> tuple[int | None, ...]:
        """Return `shape`. Raises if a size is not known."""
        if self.shape is None:
            raise UnsupportedModule("the shape of its input must be known; export with shapes")
        return self.shape

    def axis(self, number: int) -> int:
        """Return an axis of the input, counted from its first."""
        return number % len(self.sizes)


@dataclass(frozen=True)
class Maker:
    """The rule by which a node becomes a module, and the attributes that this reads; others must have their
    defaults.
    """

    make: Callable[[Node], nn.Module]
    reads: frozenset[str]


def _loaded(module: nn.Module, **state: Tensor | None) -> nn.Module:
    with torch.no_grad():
        for name, value in state.items():
            if value is not None:
                getattr(module, name).copy_(value)
    return module


def _padding(node: Node) -> tuple[int, int]:
    automatic = node.attributes.get("auto_pad", b"NOTSET")
    pads = [0, 0, 0, 0] if automatic == b"VALID" else list(node.attributes.get("pads", (0, 0, 0, 0)))
    if automatic not in (b"NOTSET", b"VALID") or len(pads) != 4 or pads[:2] != pads[2:]:
        raise UnsupportedModule("padding must be explicit, two-dimensional and symmetric")
    return pads[0], pads[1]


def _pair(node: Node, name: str) -> tuple[int, int]:
    numbers = node.attributes.get(name, (1, 1))
    if len(numbers) != 2:
        raise UnsupportedModule(f"{name} = {numbers}: only two-dimensional ones can be trained")
    return int(numbers[0]), int(numbers[1])


def _convolution(node: Node) -> nn.Module:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or weight.dim() != 4:
        raise UnsupportedModule("only two-dimensional ones can be trained")
    groups = int(node.attributes["group"])
    module = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        _pair(node, "strides"),
        _padding(node),
        _pair(node, "dilations"),
        groups,
        bias is not None,
    )
    return _loaded(module, weight=weight, bias=bias)


def _dense(node: Node) -> nn.Module:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or weight.dim() != 2 or node.attributes.get("transA", 0):
        raise UnsupportedModule("the second input must be the weights, a matrix")
    if not node.attributes.get("transB", 0):
        weight = weight.T
    weight = weight * float(node.attributes.get("alpha", 1.0))
    if bias is not None:
        if bias.shape[:-1].numel() != 1:
            raise UnsupportedModule(f"the third input must be one bias for each feature, not {[*bias.shape]}")
        bias = bias.flatten() * float(node.attributes.get("beta", 1.0))
    module = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return _loaded(module, weight=weight, bias=bias)


class _Shift(nn.Module):
    """A module that adds one trainable value to every feature."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def _shift(node: Node) -> nn.Module:
    return _Shift(next(c for c in node.constants if c is not None))


def _batch_norm(node: Node) -> nn.Module:
    weight, bias, mean, var = (node.weight(i) for i in range(1, 5))
    assert mean is not None
    rank = len(node.sizes)
    if rank not in (2, 3, 4):
        raise UnsupportedModule(f"input of shape {node.sizes}: 2 to 4 axes can be trained")
    kind = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
    module = kind(len(mean), node.attributes["epsilon"], 1 - node.attributes["momentum"])
    return _loaded(module, weight=weight, bias=bias, running_mean=mean, running_var=var)


def _clip(node: Node) -> nn.Module:
    given = [node.weight(1), node.weight(2)]
    low, high = (
        node.attributes.get(name) if bound is None else float(bound)
        for name, bound in zip(("min", "max"), given, strict=True)
    )
    if low is None or high is None:
        raise UnsupportedModule("both bounds must be given, unless it is a ReLU")
    return nn.ReLU6() if (low, high) == (0.0, 6.0) else nn.Hardtanh(low, high)


def _max_pool(node: Node) -> nn.Module:
    size, step, border, ceil = _window(node)
    return nn.MaxPool2d(size, step, border, _pair(node, "dilations"), ceil_mode=ceil)


def _average_pool(node: Node) -> nn.Module:
    size, step, border, ceil = _window(node)
    if _pair(node, "dilations") != (1, 1):
        raise UnsupportedModule("dilations cannot be trained")
    return nn.AvgPool2d(size, step, border, ceil, bool(node.attributes["count_include_pad"]))


def _window(node: Node) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]:
    """Return kernel, stride, padding, and whether the last window may hang over."""
    size, border = _pair(node, "kernel_shape"), _padding(node)
    if any(2 * p > k for p, k in zip(border, size, strict=True)):
        raise UnsupportedModule(f"padding {border} is more than half of the window {size}")
    return size, _pair(node, "strides"), border, bool(node.attributes.get("ceil_mode", 0))


def _global_average_pool(node: Node) -> nn.Module:
    if len(node.sizes) != 4:
        raise UnsupportedModule(f"input of shape {node.sizes}: only [batch, channels, H, W] can be trained")
    return nn.AdaptiveAvgPool2d(1)


class _Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, axes: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.axes, self.keep = axes, keep

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes, keepdim=self.keep)


def _mean(node: Node) -> nn.Module:
    given = node.weight(1)
    axes = node.attributes.get("axes", ()) if given is None else given.tolist()
    if not axes:
        raise UnsupportedModule("its axes must be given")
    return _Mean(tuple(sorted(node.axis(axis) for axis in axes)), bool(node.attributes["keepdims"]))


def _flatten(node: Node) -> nn.Module:
    axis = node.attributes["axis"]
    if axis != 1 and (axis > 0 or node.axis(axis) != 1):
        raise UnsupportedModule(f"axis = {axis}: only one that flattens all but the batch can be trained")
    return nn.Flatten()


def _reshape(node: Node) -> nn.Module:
    """Make a flattening of a reshape, however it is written: the batch is kept, the other sizes are
    multiplied or left to -1.
    """
    target = node.weight(1)
    rows, *features = node.sizes
    if target is not None and len(target) == 2:
        first, second = (int(size) for size in target)
        known = second == _product(features)
        if node.attributes.get("allowzero", 0) and 0 in (first, second):
            raise UnsupportedModule("allowzero = 1: a size of 0 cannot be trained")
        if (first in (0, rows) and (second == -1 or known)) or (first == -1 and known):
            return nn.Flatten()
    raise UnsupportedModule("only one that flattens all but the batch can be trained")


def _product(sizes: list[int | None]) -> int | None:
    """Return the number of all elements; None if a size is not known."""
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def _hard_sigmoid(node: Node) -> nn.Module:
    alpha, beta = node.attributes["alpha"], node.attributes["beta"]
    if not isclose(alpha, 1 / 6, rel_tol=1e-6) or beta != 0.5:
        raise UnsupportedModule(f"alpha = {alpha:.4g}, beta = {beta:.4g}: only 1/6 and 0.5 can be trained")
    return nn.Hardsigmoid()


def _selu(node: Node) -> nn.Module:
    alpha, gamma = node.attributes["alpha"], node.attributes["gamma"]
    if not (isclose(alpha, 1.6732632, rel_tol=1e-5) and isclose(gamma, 1.050701, rel_tol=1e-5)):
        raise UnsupportedModule(f"alpha = {alpha:.4g}, gamma = {gamma:.4g}: only SELU's own can be trained")
    return nn.SELU()


def _swish(node: Node) -> nn.Module:
    if (alpha := node.attributes.get("alpha", 1.0)) != 1:
        raise UnsupportedModule(f"alpha = {alpha:.4g}: only 1 can be trained")
    return nn.SiLU()


def _dropout(node: Node) -> nn.Module:
    """Make a dropout that drops while the model is trained, in whichever mode the file was exported."""
    given = node.weight(1)
    return nn.Dropout(node.attributes.get("ratio", 0.5) if given is None else float(given))


def _softmax(node: Node) -> nn.Module:
    axis = node.attributes["axis"]
    if node.version < 13 and node.axis(axis) != len(node.sizes) - 1:
        raise UnsupportedModule(f"axis = {axis}: before opset 13 only the last can be trained")
    return nn.Softmax(axis)


_WINDOW = ("auto_pad", "pads", "kernel_shape", "strides", "dilations")


def _maker(make: Callable[[Node], nn.Module], *reads: str) -> Maker:
    return Maker(make, frozenset(reads))


MAKERS = {
    "Conv": _maker(_convolution, *_WINDOW, "group"),
    "Gemm": _maker(_dense, "transA", "transB", "alpha", "beta"),
    "MatMul": _maker(_dense),
    "Add": _maker(_shift),
    "BatchNormalization": _maker(_batch_norm, "epsilon", "momentum"),
    "Clip": _maker(_clip, "min", "max"),
    "MaxPool": _maker(_max_pool, *_WINDOW, "ceil_mode"),
    "AveragePool": _maker(_average_pool, *_WINDOW, "ceil_mode", "count_include_pad"),
    "GlobalAveragePool": _maker(_global_average_pool),
    "ReduceMean": _maker(_mean, "axes", "keepdims"),
    "Flatten": _maker(_flatten, "axis"),
    "Reshape": _maker(_reshape, "allowzero"),
    "Identity": _maker(lambda node: nn.Identity()),
    "Relu": _maker(lambda node: nn.ReLU()),
    "LeakyRelu": _maker(lambda node: nn.LeakyReLU(node.attributes["alpha"]), "alpha"),
    "Elu": _maker(lambda node: nn.ELU(node.attributes["alpha"]), "alpha"),
    "Selu": _maker(_selu, "alpha", "gamma"),
    "Softplus": _maker(lambda node: nn.Softplus(node.attributes.get("beta", 1.0)), "beta"),
    "Mish": _maker(lambda node: nn.Mish()),
    "Sigmoid": _maker(lambda node: nn.Sigmoid()),
    "Tanh": _maker(lambda node: nn.Tanh()),
    "HardSwish": _maker(lambda node: nn.Hardswish()),
    "Swish": _maker(_swish, "alpha"),
    "HardSigmoid": _maker(_hard_sigmoid, "alpha", "beta"),
    "Gelu": _maker(lambda node: nn.GELU(node.attributes["approximate"].decode()), "approximate"),
    "Dropout": _maker(_dropout, "ratio", "seed"),
    "Softmax": _maker(_softmax, "axis"),
}
"""The makers of modules, by the kind of node."""
