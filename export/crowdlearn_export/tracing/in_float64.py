"""A model in float64, also where its forward makes numbers of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAKE = frozenset(
    {torch.zeros, torch.ones, torch.empty, torch.full, torch.tensor, torch.arange, torch.eye}
    | {torch.linspace, torch.logspace, torch.rand, torch.randn, torch.scalar_tensor}
)
"""Functions that make float32 unless they are asked for something else."""


class InFloat64(TorchFunctionMode):
    """A mode in which what would be float32 is float64. Other types stay."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            return args[0].double()
        args = tuple(_wide(each) for each in args)
        out = func(*args, **{name: _wide(each) for name, each in (kwargs or {}).items()})
        return out.double() if func in MAKE and out.dtype is torch.float32 else out


def _wide(given: Any) -> Any:
    return torch.float64 if given is torch.float32 else given
