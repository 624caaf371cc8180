"""Biases of attention's keys, found in a model that is written in dense layers: their gradient is 0.

A number that is added to all keys alike adds the same to all scores of a query, and their softmax does not
see it. In floats the gradient is rounding, which Adam makes into steps as large as any. A model is followed
from the biases of its dense layers through views to attention. Rows that go nowhere but into keys are still.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .dropping import tensors_in

RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "contiguous"})
SPLITS = frozenset({"split", "split_with_sizes", "chunk", "tensor_split", "unbind"})
PRODUCTS = frozenset({"matmul", "__matmul__", "bmm"})
SCALINGS = frozenset({"mul", "__mul__", "__rmul__", "div", "__truediv__", "true_divide"})
SUMS = frozenset({"add", "__add__", "__radd__"})
MASKED = -1e4
"""A score that softmax makes 0, beside any other."""
KEY = 1
"""The position of keys among the arguments of attention."""


@dataclass(frozen=True, eq=False)
class _Followed:
    """A tensor that a bias was added to: its `rows` by their numbers, in the order of the axes that are
    `columns`. Along the other axes they are the same; in `scores`, along the last.
    """

    tensor: Tensor
    bias: str
    rows: NDArray[np.int64]
    columns: tuple[bool, ...] = ()
    scores: bool = False


class KeyBiases(TorchFunctionMode):
    """A mode that follows the biases of a model's dense layers. `parameters` are its parameters by name."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in parameters.items()}
        self._followed: dict[int, _Followed] = {}
        self._seen: dict[str, set[int]] = {}
        self._moved: dict[str, set[int]] = {}
        self._sizes = {name: value.numel() for name, value in parameters.items()}

    def still(self, scores: Tensor) -> dict[str, tuple[int, ...]]:
        """Return the rows of each bias that went into keys alone, by its name. `scores` are those of the
        model, float32 [B, ...].
        """
        self._move((scores,))
        found = {name: sorted(rows - self._moved.get(name, set())) for name, rows in self._seen.items()}
        return {name: tuple(rows) for name, rows in found.items() if rows}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name != "__setitem__" and not any(True for _ in tensors_in((out,))):
            return out  # a question about a shape
        if func is F.linear and len(args) == 3 and not kwargs and (bias := self._names.get(id(args[2]))):
            self._move(args[:2])
            rows = np.arange(self._sizes[bias])
            self._follow(_Followed(out, bias, rows, (*(False for _ in out.shape[1:]), True)))
        elif not self._passed(func, name, args, kwargs, out):
            self._move((*args, *kwargs.values()))
        return out

    def _passed(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> bool:
        """Follow a call that a bias goes through, or ends in as a part of keys; return whether it is one."""
        if func is F.scaled_dot_product_attention:
            key = self._of(args[KEY] if len(args) > KEY else kwargs.get("key"))
            if key is None or key.scores or len(key.columns) < 2 or key.columns[-2]:
                return False
            self._see(key)
            self._move([each for at, each in enumerate(args) if at != KEY])
            self._move([each for given, each in kwargs.items() if given != "key"])
            return True
        if name in PRODUCTS and len(args) == 2 and not kwargs and (keys := self._of(args[1])):
            if keys.scores or len(keys.columns) < 2 or keys.columns[-1]:
                return False
            self._move(args[:1])
            self._follow(replace(keys, tensor=out, columns=(), scores=True))
            return True
        first = self._of(args[0]) if args else None
        if name in SUMS and first is None and len(args) == 2:
            first, args = self._of(args[1]), args[::-1]
        if first is None:
            return False
        if name in SCALINGS and _is_number(args[1:]) and not kwargs:
            self._follow(replace(first, tensor=out))
            return True
        if first.scores:
            return self._scored(name, first, args, kwargs, out)
        return self._viewed(name, first, args[1:], kwargs, out)

    def _scored(
        self, name: str, scores: _Followed, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
    ) -> bool:
        if name == "softmax":
            along = args[1] if len(args) > 1 else kwargs.get("dim")
            if along in (-1, scores.tensor.dim() - 1):
                self._see(scores)
                return True
        masked = name in ("masked_fill", "masked_fill_") and len(args) == 3 and _is_number(args[2:])
        added = name in SUMS and len(args) == 2 and not kwargs
        if (masked and args[2] <= MASKED) or added:
            self._move(args[1:])
            self._follow(replace(scores, tensor=out))
            return True
        return False

    def _viewed(
        self, name: str, of: _Followed, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
    ) -> bool:
        if name in RESHAPES:
            found = _reshaped(of, out)
        elif name in ("transpose", "permute", "swapaxes") and not kwargs:
            found = _permuted(of, name, args, out)
        elif name in SPLITS:
            axis = kwargs.get("dim", args[-1] if len(args) > (name != "unbind") else 0)
            return self._parts(of, name, axis, out)
        elif name == "__getitem__" and isinstance(args[0], int) and not isinstance(args[0], bool):
            found = _taken(of, 0, args[0] % of.tensor.shape[0], out)
        else:
            return False
        if found is None:
            return False
        self._follow(found)
        return True

    def _parts(self, of: _Followed, name: str, axis: Any, out: Sequence[Tensor]) -> bool:
        if not isinstance(axis, int):
            return False
        axis %= of.tensor.dim()
        start = 0
        for part in out:
            if name == "unbind":
                found, size = _taken(of, axis, start, part), 1
            else:
                size, rows = part.shape[axis], of.rows
                if of.columns[axis]:
                    at = sum(of.columns[:axis])
                    rows = rows.take(np.arange(start, start + size), at)
                found = replace(of, tensor=part, rows=rows)
            self._follow(found)
            start += size
        return True

    def _of(self, tensor: Any) -> _Followed | None:
        return self._followed.get(id(tensor))

    def _follow(self, found: _Followed) -> None:
        self._followed[id(found.tensor)] = found

    def _see(self, key: _Followed) -> None:
        self._seen.setdefault(key.bias, set()).update(key.rows.ravel().tolist())

    def _move(self, args: Iterable[Any]) -> None:
        """Note that biases have a gradient which these arguments hold."""
        for tensor in tensors_in(args):
            if (found := self._of(tensor)) is not None:
                self._moved.setdefault(found.bias, set()).update(found.rows.ravel().tolist())
            if (name := self._names.get(id(tensor))) is not None:
                self._moved.setdefault(name, set()).update(range(self._sizes[name]))


def _reshaped(of: _Followed, out: Tensor) -> _Followed | None:
    """Return what a reshape gives that leaves the axes of rows behind all others; None for another."""
    if out.shape == of.tensor.shape:
        return replace(of, tensor=out)
    if list(of.columns) != sorted(of.columns):
        return None
    start, size = out.dim(), 1
    while start and size < of.rows.size:
        start -= 1
        size *= out.shape[start]
    if size != of.rows.size:
        return None
    columns = tuple(axis >= start for axis in range(out.dim()))
    return replace(of, tensor=out, rows=of.rows.reshape(out.shape[start:]), columns=columns)


def _permuted(of: _Followed, name: str, args: Sequence[Any], out: Tensor) -> _Followed | None:
    axes = len(of.columns)
    if name == "permute":
        order = [axis % axes for axis in (args[0] if isinstance(args[0], Sequence) else args)]
    else:
        order = list(range(axes))
        first, second = (axis % axes for axis in args)
        order[first], order[second] = second, first
    places = [axis for axis in range(axes) if of.columns[axis]]
    rows = of.rows.transpose([places.index(axis) for axis in order if of.columns[axis]])
    return replace(of, tensor=out, rows=rows, columns=tuple(of.columns[axis] for axis in order))


def _taken(of: _Followed, axis: int, index: int, out: Tensor) -> _Followed:
    rows = of.rows
    if of.columns[axis]:
        rows = np.asarray(rows.take(index, sum(of.columns[:axis])))
    return replace(of, tensor=out, rows=rows, columns=(*of.columns[:axis], *of.columns[axis + 1 :]))


def _is_number(args: Sequence[Any]) -> bool:
    return len(args) == 1 and isinstance(args[0], int | float)


def still_biases(model: nn.Module, x: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the rows of biases that go into keys alone, by name, as the model runs on samples [B, ...]."""
    with torch.no_grad(), KeyBiases(dict(model.named_parameters())) as keys:
        scores = model(x)
    return keys.still(scores)


def held_still(bias: Tensor, rows: Sequence[int]) -> Tensor:
    """Return a bias of float32 [n] whose `rows` get no gradient."""
    if len(rows) == len(bias):
        return bias.detach()
    ends = [at for at, row in enumerate(rows) if not at or row != rows[at - 1] + 1]
    parts, at = [], 0
    for start, stop in zip(ends, [*ends[1:], len(rows)], strict=True):
        first, last = rows[start], rows[stop - 1] + 1
        parts += [bias[at:first], bias[first:last].detach()]
        at = last
    return torch.cat([part for part in (*parts, bias[at:]) if len(part)])
