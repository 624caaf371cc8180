"""Biases that a batch norm or a softmax takes out again: their gradient is 0, and not the rounding of a sum.

Optimizers that make every gradient as large as any other, as Adam does, would move them at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MAPS = (F.linear, F.conv1d, F.conv2d)
IN_BIAS = 6
"""The position of the biases of queries, keys and values among the arguments of attention over heads."""


class _Map(NamedTuple):
    """A linear map's sums, with the number of changes in place so far, and without their bias."""

    out: Tensor
    version: int
    bare: Tensor
    bias: Tensor


class Unmoved:
    """A model's linear maps so far, by what they gave: a batch norm takes its sums before their bias."""

    def __init__(self) -> None:
        self._sums: dict[int, _Map] = {}

    def mapped(self, func: Callable[..., Tensor], args: Sequence[Any]) -> Tensor:
        """Return what a linear map with a bias gives, float32 [B, ...], and remember it without."""
        x, weight, bias, *rest = args
        bare = func(x, weight, None, *rest) if rest else func(x, weight)
        out = bare + (bias if func is F.linear else bias.reshape(-1, *(1 for _ in bare.shape[2:])))
        self._sums[id(out)] = _Map(out, out._version, bare, bias)
        return out

    def normed(self, func: Callable[..., Tensor], args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """Return what a batch norm gives that takes its own statistics, of sums before their bias: float32
        [B, ...]. The running mean has the bias.
        """
        found = self._sums.get(id(args[0]))
        takes_its_own = args[5] if len(args) > 5 else kwargs.get("training", False)
        if found is None or found.out._version != found.version or not takes_its_own:
            return func(*args, **kwargs)
        bare, mean, still = found.bare, args[1], found.bias.detach()
        if mean is None:
            return func(bare, *args[1:], **kwargs)
        moved = mean - still
        out = func(bare, moved, *args[2:], **kwargs)
        mean.copy_(moved + still)
        return out


def has_bias(func: Any, args: Sequence[Any]) -> bool:
    """Return whether this is a linear map with a bias, of samples."""
    return func in MAPS and len(args) > 2 and args[2] is not None and args[0].dim() == args[1].dim()


class UnmovedBiases(TorchFunctionMode):
    """A mode in which a model's own biases before batch norms, and those of attention's keys, get no
    gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self._unmoved = Unmoved()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if has_bias(func, args) and not kwargs:
            return self._unmoved.mapped(func, args)
        if func is F.batch_norm:
            return self._unmoved.normed(func, args, kwargs)
        if func is F.multi_head_attention_forward and args[IN_BIAS] is not None:
            queries, keys, values = args[IN_BIAS].chunk(3)
            biases = torch.cat([queries, keys.detach(), values])
            args = (*args[:IN_BIAS], biases, *args[IN_BIAS + 1 :])
        return func(*args, **kwargs)
