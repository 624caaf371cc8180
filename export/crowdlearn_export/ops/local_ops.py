"""The operations that stay with one neuron, from modules and functions."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import fx, nn

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.graph.activations import ACTIVATIONS, BY_MODULE
from crowdlearn_export.graph.neuron_graph import LocalOp

from .signals import ONE_DIMENSION

SUPPORTED = ", ".join(
    (
        "Linear, Conv1d and Conv2d (groups 1 or depthwise), BatchNorm1d/2d",
        *(each.module.__name__ for each in ACTIVATIONS),
        "Dropout, MaxPool, AvgPool and AdaptiveAvgPool of maps and signals, their mean, Flatten",
        "addition, product",
    )
)

FUNCTIONS: dict[object, type[nn.Module]] = {
    **{function: each.module for each in ACTIVATIONS for function in each.functions},
    F.dropout: nn.Dropout,
    F.dropout2d: nn.Dropout2d,
    **ONE_DIMENSION,
    F.max_pool2d: nn.MaxPool2d,
    torch.max_pool2d: nn.MaxPool2d,
    F.avg_pool2d: nn.AvgPool2d,
    F.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
"""The module of each function that can be traced."""

MAX_POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
"""The arguments of functions that pool maxima, in their order."""


def describe(name: str, module: nn.Module) -> str:
    """Return a module as messages call it."""
    return f"{name or 'the model'} ({type(module).__name__})"


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """Return height and width of what may be given as one number."""
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def as_module(kind: type[nn.Module], node: fx.Node, called: str) -> nn.Module:
    """Return the module that does what the traced function does; both name and order their other arguments
    alike.
    """
    keywords = {
        name: value for name, value in node.kwargs.items() if name not in ("input", "training", "inplace")
    }
    arguments = tuple(node.args[1:])
    if kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d):
        drops = node.kwargs.get("training", arguments[1] if len(arguments) > 1 else True)
        keywords["p"] = keywords.get("p", arguments[0] if arguments else 0.5) if drops else 0.0
        arguments = ()
    if kind is nn.ReLU:
        arguments = ()
    if kind is nn.MaxPool2d:  # whose last two arguments the function has the other way round
        keywords.update(zip(MAX_POOLING, arguments, strict=False))
        arguments = ()
    make: Callable[..., nn.Module] = kind
    try:
        return make(*arguments, **keywords)
    except (TypeError, ValueError) as error:
        raise UnsupportedModule(
            f"{called}: arguments that {kind.__name__} does not take ({error})"
        ) from error


def average(kernel: tuple[int, ...], module: str = "") -> LocalOp:
    """Return the mean over windows of a map that touch."""
    return LocalOp(
        "avg_pool",
        module,
        {
            "kernel": kernel,
            "stride": kernel,
            "padding": (0, 0),
            "ceil_mode": False,
            "count_include_pad": True,
        },
    )


def local_op(
    module: nn.Module,
    name: str,
    called: str,
    neurons: int,
    before: tuple[int, ...],
    after: tuple[int, ...],
) -> LocalOp:
    """Return the operation of a module, which turns neurons of shape `before` into shape `after`.

    Raises UnsupportedModule if it is not local, or not to be sliced.
    """
    match module:
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            if module.num_features != neurons:
                raise UnsupportedModule(
                    f"{called}: {module.num_features} features, {neurons} neurons; put before Flatten"
                )
            if module.momentum is None or not module.track_running_stats:
                raise UnsupportedModule(f"{called}: running statistics with a momentum are possible")
            return LocalOp(
                "batch_norm",
                name,
                {"eps": module.eps, "momentum": module.momentum, "affine": module.affine},
                parameters=2 * neurons if module.affine else 0,
                buffers=2 * neurons,
            )
        case nn.Dropout() | nn.Dropout2d():
            if not module.p < 1:
                raise UnsupportedModule(f"{called} drops everything; use p below 1")
            channels = isinstance(module, nn.Dropout2d)
            if channels and len(before) == 1:
                raise UnsupportedModule(f"{called} sees neurons of shape {before}; put it before Flatten")
            whole = channels or prod(before) == 1
            return LocalOp("dropout", name, {"p": module.p, "shape": () if whole else before})
        case nn.MaxPool2d():
            if module.return_indices:
                raise UnsupportedModule(f"{called}: return_indices is not possible")
            return LocalOp("max_pool", name, {**_window(module), "dilation": pair(module.dilation)})
        case nn.AvgPool2d():
            if module.divisor_override is not None:
                raise UnsupportedModule(f"{called}: divisor_override is not possible")
            return LocalOp(
                "avg_pool", name, {**_window(module), "count_include_pad": module.count_include_pad}
            )
        case nn.AdaptiveAvgPool2d():
            if any(b % a for b, a in zip(before, after, strict=True)):
                raise UnsupportedModule(f"{called}: {before} is not a whole multiple of {after}")
            kernel = tuple(b // a for b, a in zip(before, after, strict=True))
            return average(kernel, name)
    activation = BY_MODULE.get(type(module))
    if activation is None:
        raise UnsupportedModule(f"{called} cannot be sliced; supported: {SUPPORTED}")
    return LocalOp(activation.kind, name, activation.options_of(module))


def _window(module: nn.MaxPool2d | nn.AvgPool2d) -> dict[str, object]:
    return {
        "kernel": pair(module.kernel_size),
        "stride": pair(module.stride),
        "padding": pair(module.padding),
        "ceil_mode": module.ceil_mode,
    }
