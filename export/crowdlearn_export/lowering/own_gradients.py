"""Functions with a gradient of their own, as recurrences have: torch functionalizes none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch._C._functorch import TransformType
from torch._functorch.autograd_function import custom_function_call


@contextlib.contextmanager
def own_gradients() -> Iterator[None]:
    """Let torch.func.functionalize run what such functions compute, operation by operation, as long as this
    lasts. Their gradients were asked for inside of it, and have been written out by then.
    """
    table = custom_function_call.functorch_table
    before = table.get(TransformType.Functionalize)
    table[TransformType.Functionalize] = _computed
    try:
        yield
    finally:
        table[TransformType.Functionalize] = before


def _computed(_: Any, function: type[torch.autograd.Function], *given: Any) -> Any:
    return function.forward(*given)
