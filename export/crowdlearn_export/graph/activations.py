"""Activations that slice, each one object: how it is recognised, what it computes, and where it has kinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

aten = torch.ops.aten
Options = Mapping[str, object]


@dataclass(frozen=True)
class Activation:
    """An activation by its name in a graph, its module, and the functions that compute the same.

    `run` computes it on sums float32 [B, neurons, ...], with the `options` that its module has. `kinks` are
    the points at which its derivative jumps; `operators` are those of PyTorch at which they are watched.
    """

    kind: str
    module: type[nn.Module]
    functions: tuple[object, ...]
    run: Callable[[Tensor, Options], Tensor]
    options: tuple[str, ...] = ()
    kinks: tuple[float, ...] = ()
    operators: tuple[Any, ...] = ()

    def options_of(self, module: nn.Module) -> dict[str, object]:
        """Return the options of a module of this kind, by name."""
        return {name: getattr(module, name) for name in self.options}


ACTIVATIONS = (
    Activation(
        "relu",
        nn.ReLU,
        (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"),
        lambda x, options: F.relu(x),
        kinks=(0.0,),
        operators=(aten.relu.default, aten.relu_.default),
    ),
    Activation("relu6", nn.ReLU6, (F.relu6,), lambda x, options: F.relu6(x)),
    Activation(
        "leaky_relu",
        nn.LeakyReLU,
        (F.leaky_relu,),
        lambda x, options: F.leaky_relu(x, float(options["negative_slope"])),  # type: ignore[arg-type]
        options=("negative_slope",),
        kinks=(0.0,),
        operators=(aten.leaky_relu.default, aten.leaky_relu_.default),
    ),
    Activation(
        "elu",
        nn.ELU,
        (F.elu,),
        lambda x, options: F.elu(x, float(options["alpha"])),  # type: ignore[arg-type]
        options=("alpha",),
        kinks=(0.0,),
        operators=(aten.elu.default, aten.elu_.default),
    ),
    Activation("selu", nn.SELU, (F.selu, torch.selu), lambda x, options: F.selu(x)),
    Activation("mish", nn.Mish, (F.mish,), lambda x, options: F.mish(x)),
    Activation(
        "softplus",
        nn.Softplus,
        (F.softplus,),
        lambda x, options: F.softplus(x, float(options["beta"]), float(options["threshold"])),  # type: ignore[arg-type]
        options=("beta", "threshold"),
    ),
    Activation(
        "gelu",
        nn.GELU,
        (F.gelu,),
        lambda x, options: F.gelu(x, approximate=str(options["approximate"])),
        options=("approximate",),
    ),
    Activation("tanh", nn.Tanh, (F.tanh, torch.tanh, "tanh"), lambda x, options: torch.tanh(x)),
    Activation(
        "sigmoid", nn.Sigmoid, (F.sigmoid, torch.sigmoid, "sigmoid"), lambda x, options: torch.sigmoid(x)
    ),
    Activation("silu", nn.SiLU, (F.silu,), lambda x, options: F.silu(x)),
    Activation(
        "hardswish",
        nn.Hardswish,
        (F.hardswish,),
        lambda x, options: F.hardswish(x),
        kinks=(-3.0, 3.0),
        operators=(aten.hardswish.default, aten.hardswish_.default),
    ),
    Activation(
        "hardsigmoid",
        nn.Hardsigmoid,
        (F.hardsigmoid,),
        lambda x, options: F.hardsigmoid(x),
        kinks=(-3.0, 3.0),
        operators=(aten.hardsigmoid.default, aten.hardsigmoid_.default),
    ),
)
"""All of them. ReLU6 runs as `aten.hardtanh`, whose kinks are its arguments (program/kinks.py), and SELU as
`aten.elu`.
"""
BY_KIND = {activation.kind: activation for activation in ACTIVATIONS}
BY_MODULE: Mapping[type[nn.Module], Activation] = {each.module: each for each in ACTIVATIONS}
