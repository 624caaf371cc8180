"""What rounding on the wire does to training, *emulated*: sums and errors take on the wire's precision."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

Wire = Literal["float32", "float16", "int8"]
BYTES = {"float32": 4, "float16": 2, "int8": 1}


def round_sums(model: nn.Module, wire: Wire, noise: torch.Generator) -> None:
    """Makes every linear map of `model` give its sums, and take its errors, as rounded by `wire`."""
    if wire == "float32":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_hook(partial(_cross, wire, noise))


def _cross(wire: Wire, noise: torch.Generator, module: nn.Module, _: object, sums: Tensor) -> Tensor:
    crossed: Tensor = _Crossing.apply(sums, wire, noise) if module.training else sums  # type: ignore[no-untyped-call]
    return crossed


class _Crossing(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, wire: Wire, noise: torch.Generator) -> Tensor:
        ctx.crossing = wire, noise
        return rounded(sums, wire, noise)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor, None, None]:
        return rounded(errors[0], *ctx.crossing), None, None


def rounded(values: Tensor, wire: Wire, noise: torch.Generator) -> Tensor:
    """float16 to nearest; int8 in steps of the largest magnitude / 127, up or down at random."""
    if wire == "float32":
        return values
    if wire == "float16":
        return values.half().float()
    step = values.abs().max() / 127
    if not step:
        return values
    return (values / step + torch.rand(values.shape, generator=noise)).floor().clamp(-127, 127) * step
