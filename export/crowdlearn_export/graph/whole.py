"""A network without layers of neurons, which one device runs as a whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode

from crowdlearn_export.errors import UnsupportedModule

from .attention import attention, multi_head_attention
from .dropping import DROPS, Call, Drop, given, normal, sizes_of
from .key_biases import held_still
from .plain import PLAIN
from .recurrence import RECURRENT
from .unmoved import Unmoved, has_bias

CALLS = 8
"""The most calls between a look at a mask and this file's."""
Within = Callable[[Mapping[str, Tensor], Sequence[Tensor] | None], TorchFunctionMode]
"""A function from the arrays of a model, by name, and its dropout factors to the mode that it runs in."""


@dataclass(frozen=True)
class Array:
    """An array of the model's state, by its name in the state dict: `role` is parameter, buffer or frozen."""

    name: str
    shape: tuple[int, ...]
    role: str


class Whole:
    """A model as a function of samples, arrays and dropout factors.

    `still` has the rows of biases, by name, that get no gradient. `key` names what it computes. `integers`
    tells whether samples are whole numbers. It is one thing: copies are itself, and its text is its key.
    """

    def __init__(
        self,
        model: nn.Module,
        arrays: Sequence[Array],
        drops: Sequence[Drop],
        still: Mapping[str, Sequence[int]],
        *,
        integers: bool,
        key: str,
    ) -> None:
        self.model, self.still, self.integers, self.key = model, still, integers, key
        self.arrays, self.drops = tuple(arrays), tuple(drops)

    def __deepcopy__(self, memo: object) -> Whole:
        return self

    def __str__(self) -> str:
        return self.key

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Whole) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array in the model."""
        return next(each.shape for each in self.arrays if each.name == name)

    def run(
        self,
        samples: Tensor,
        arrays: Mapping[str, Tensor],
        factors: Sequence[Tensor],
        *,
        training: bool,
        within: Within | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the scores [B, outputs] of samples, and, in training, new buffers in the order of
        `arrays`. The model runs in the mode that `within` makes of its arrays and factors.
        """
        # A module writes to its buffers: it gets copies, which become outputs.
        given = {
            each.name: arrays[each.name].reshape(each.shape)
            if each.role != "buffer"
            else arrays[each.name].reshape(each.shape).clone()
            for each in self.arrays
        }
        for name, rows in self.still.items():
            given[name] = held_still(given[name], rows)
        counters = {
            name: torch.zeros(buffer.shape, dtype=buffer.dtype)
            for name, buffer in self.model.named_buffers()
            if name.endswith("num_batches_tracked")
        }
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            if not training:
                self.model.eval()
            state = {**given, **counters}  # where the call leaves buffers that it put others in place of
            dropped = factors if training else None
            with within(given, dropped) if within else Dropping(dropped, self.drops):
                scores = torch.func.functional_call(self.model, state, (samples,))
        finally:
            for module, mode in modes:
                module.training = mode
        moved = [state[each.name] for each in self.arrays if each.role == "buffer"]
        return scores, [value.reshape(rows_first(value.shape)) for value in (moved if training else [])]


def rows_first(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an array as it travels: a single number has one row."""
    return tuple(shape) or (1,)


def _asks_whether_causal() -> bool:
    """Return whether PyTorch's transformers compare a mask with the causal one. While a model is traced its
    values are not known; if the answer is no, the mask itself is used, which gives the same.
    """
    frame = sys._getframe()
    for _ in range(CALLS):
        if (before := frame.f_back) is None:
            return False
        frame = before
        if frame.f_code is transformer._detect_is_causal_mask.__code__:
            return True
    return False


class Dropping(TorchFunctionMode):
    """A mode that runs a model in operators that the compiler has, and drops by factors, call by call.

    With None, nothing is dropped. `drops` are those of the calls, in their order; a mode that `learns` them
    from a batch of so many samples keeps its `calls`. Raises UnsupportedModule for dropout of everything.
    """

    def __init__(
        self, factors: Sequence[Tensor] | None = None, drops: Sequence[Drop] = (), *, learns: int = 0
    ) -> None:
        super().__init__()
        self._due = None if factors is None else iter(zip(factors, drops, strict=True))
        self._learns = learns
        self.calls: list[Call] = []
        self._unmoved = Unmoved()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DROPS:
            if DROPS[func][0] is normal and len(args) < 3:  # which drops only if it is told to
                kwargs = {"training": False, **kwargs}
            return self._dropped(func, *args, **kwargs)
        if func is torch.Tensor.bernoulli_:
            return self._drawn(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return multi_head_attention(*args, **kwargs, drop=self._drop)
        if func is F.scaled_dot_product_attention and given(args, kwargs, 4, "dropout_p", 0.0):
            if kwargs.pop("enable_gqa", False):
                raise UnsupportedModule(
                    "attention with enable_gqa and dropout cannot be trained; set it to 0"
                )
            return attention(*args, **kwargs, drop=self._drop)
        if func is Tensor.__bool__ and _asks_whether_causal():
            return False
        plain = PLAIN.get(getattr(func, "__name__", ""), func)
        if has_bias(func, args) and not kwargs:
            return self._unmoved.mapped(plain, args)
        if func is F.batch_norm:
            return self._unmoved.normed(func, args, kwargs)
        if (name := getattr(func, "__name__", "")) == "_pack_padded_sequence":
            raise UnsupportedModule(
                "packed sequences cannot be trained; give the recurrence padded ones, and pick the state at "
                "the last place of each sample by states.gather"
            )
        if name in RECURRENT:
            return RECURRENT[name](*args, **kwargs, drop=self._drop)
        return plain(*args, **kwargs)

    def _drop(self, x: Tensor, probability: float) -> Tensor:
        return self._dropped(F.dropout, x, probability)

    def _drawn(self, x: Tensor, p: Any = 0.5, *, generator: Any = None) -> Tensor:
        """Fill with 1 by the probability `p`, else 0, as layers are left out at random (stochastic depth)."""
        alike = isinstance(x.shape[0], int) and x.shape[0] == 1
        if not isinstance(p, float | int) or not 0 < p <= 1 or x.dim() < 2 or alike:
            raise UnsupportedModule(
                "bernoulli_ can be trained of a tensor [batch, 1, ...] by a probability above 0; draw for "
                "each sample, as stochastic depth does"
            )
        return x.copy_(self._dropped(F.dropout, torch.ones_like(x), 1 - p) * p)

    def _dropped(
        self, func: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training or not p or (self._due is None and not self._learns):
            return x
        if p >= 1:
            raise UnsupportedModule("a dropout drops everything; use p below 1")
        by_factors, channels = DROPS[func]
        if self._due is None:
            self.calls.append(Call(p, sizes_of(x, channels=channels), self._learns))
            return x
        factors, drop = next(self._due)
        return by_factors(x, drop.beside(factors), p)
