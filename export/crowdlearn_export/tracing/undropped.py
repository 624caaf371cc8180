"""A model without its dropping."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from crowdlearn_export.graph.dropping import DROPS, given, normal, scaled

PLACES = {
    "multi_head_attention_forward": 10,
    "scaled_dot_product_attention": 4,
    "gru": 5,
    "lstm": 5,
}
"""The position of the probability with which functions drop something inside."""


class Undropped(TorchFunctionMode):
    """A mode in which nothing is dropped: all factors are 1."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPS:
            by_factors, _ = DROPS[func]
            if by_factors is scaled or not given(args, kwargs, 2, "training", False):
                return args[0]
            return normal(args[0], torch.ones_like(args[0]), given(args, kwargs, 1, "p", 0.5))
        if func is torch.Tensor.bernoulli_:
            return args[0].fill_(given(args, kwargs, 1, "p", 0.5))
        place = PLACES.get(getattr(func, "__name__", ""))
        if place is not None and len(args) > place:
            args = (*args[:place], 0.0, *args[place + 1 :])
        elif place is not None and "dropout_p" in kwargs:
            kwargs = {**kwargs, "dropout_p": 0.0}
        return func(*args, **kwargs)
