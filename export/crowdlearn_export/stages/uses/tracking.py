"""The mode in which a model runs so that each use of an array that learns is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from crowdlearn_export.graph.attention import multi_head_attention
from crowdlearn_export.graph.dropping import Drop, tensors_in
from crowdlearn_export.graph.whole import Dropping

from .apart import Batch, batch_of
from .rules import RULES, Use

VIEWS = frozenset(
    {"chunk", "split", "unbind", "__getitem__", "narrow", "select", "contiguous"}
    | {"view", "reshape", "flatten", "unflatten", "transpose", "t", "swapaxes", "permute"}
    | {"unsqueeze", "squeeze"}
)
"""Functions that give some numbers of an array, each once."""
TURNED = (Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]


class Part(NamedTuple):
    """Numbers of an array that learns: its name, the function that takes them from it, and, while spots are
    found, their `places` in it, int64 in the part's shape.
    """

    name: str
    view: Callable[[Tensor], Tensor]
    places: Tensor | None


class Spot(NamedTuple):
    """A use as it was found: the shape of what it gives, and where the batch is in that and in what is read.
    `looked` are the rows that are looked up for all samples alike; then the use is none, but a part.
    """

    shape: tuple[int, ...]
    of_out: Batch
    of_read: Batch
    looked: Tensor | None = None


class Tap(torch.autograd.Function):
    """The identity, of float [...]: errors of what it gives are also those of `tap`, of the same shape."""

    @staticmethod
    def forward(x: Tensor, tap: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep nothing of the tensors [...]."""

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> Any:
        return errors[0], errors[0]


class Tracking(Dropping):
    """A mode that follows arrays, by name, to the calls that use them.

    Without `spots`, samples are `batch`, a number that is no other size, and spots are found. With them,
    each use is tapped: its errors are those of `taps`, in the same order. `refused` says which use has no
    rule.
    """

    def __init__(
        self,
        arrays: Mapping[str, Tensor],
        factors: Sequence[Tensor] | None,
        drops: Sequence[Drop],
        batch: int,
        spots: Sequence[Spot] = (),
        taps: Sequence[Tensor] = (),
    ) -> None:
        super().__init__(factors, drops)
        self._batch, self._taps, self._given = batch, taps, spots
        self.refused = ""
        self.spots: list[Spot] = []
        self.uses: list[Use] = []
        self.parts: list[Mapping[str, Part]] = []
        self._parts: dict[int, tuple[Tensor, Part]] = {}
        for name, array in arrays.items():
            places = None if spots else torch.arange(array.numel()).reshape(array.shape)
            self._follow(array, Part(name, lambda x: x, places))

    def learns(self, value: Any) -> bool:
        """Return whether this is an array that learns, or a part of one."""
        return id(value) in self._parts

    def __call__(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """Make a call as the model does, without a look at it."""
        return super().__torch_function__(func, (), args, kwargs)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return multi_head_attention(*args, **kwargs, drop=self._drop)
        learning = [each for each in tensors_in((*args, *kwargs.values())) if self.learns(each)]
        if not learning:
            return self(func, *args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in VIEWS or func in TURNED:
            return self._viewed(func, args, kwargs)
        rule = RULES.get(name)
        use = None
        if rule is not None:
            try:
                use = rule(self, *args, **kwargs)
            except TypeError:  # arguments that the rule has no names for
                use = None
        if use is not None:
            used = [each for each in use.arrays.values() if each is not None and self.learns(each)]
            if len(used) == len(learning) and not self.learns(use.read):
                return self._used(use, name)
        out = self(func, *args, **kwargs)
        if any(True for _ in tensors_in((out,))):
            self._refuse(learning[0], name)
        return out

    def _used(self, use: Use, name: str) -> Tensor:
        """Note a use, and return what it gives."""
        number = len(self.spots)
        if self._given:
            spot = self._given[number]
        else:
            found = self._spot(use)
            if found is None:
                self._refuse(next(each for each in use.arrays.values() if each is not None), name)
                return use.out
            spot = found
        self.spots.append(spot)
        if spot.looked is not None:
            (table,) = (each for each in use.arrays.values() if each is not None)
            self._view_of(table, use.out, _look_up(spot.looked))
            return use.out
        parts = {name: self._parts[id(each)][1] for name, each in use.arrays.items() if self.learns(each)}
        self.uses.append(use)
        self.parts.append(parts)
        if not self._given:
            return use.out
        out: Tensor = Tap.apply(use.out, self._taps[len(self.uses) - 1])  # type: ignore[no-untyped-call]
        return out

    def _spot(self, use: Use) -> Spot | None:
        of_out, of_read = batch_of(use.out.shape, self._batch), batch_of(use.read.shape, self._batch)
        shape = tuple(use.out.shape)
        if of_out is None and of_read is None and not use.read.is_floating_point():
            alone = len(set(use.read.flatten().tolist())) == use.read.numel()
            return Spot(shape, Batch(0), Batch(0), use.read) if alone else None
        if of_out is None or of_read is None or (use.front and of_out.axis):
            return None
        return Spot(shape, of_out, of_read)

    def _viewed(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Follow a view of an array to what it gives."""
        first, *rest = args
        out = self(func, *args, **kwargs)
        plain = all(_is_plain(each) for each in (*rest, *kwargs.values()))
        if not self.learns(first) or not plain:
            self._refuse(first if self.learns(first) else rest[0], getattr(func, "__name__", ""))
            return out
        for at, each in enumerate(out if isinstance(out, tuple | list) else [out]):

            def view(x: Tensor, at: int = at) -> Tensor:
                found = func(x, *rest, **kwargs)
                return found[at] if isinstance(found, tuple | list) else found

            self._view_of(first, each, view)
        return out

    def _view_of(self, of: Tensor, out: Tensor, view: Callable[[Tensor], Tensor]) -> None:
        before = self._parts[id(of)][1]
        places = None if before.places is None else view(before.places)
        self._follow(out, Part(before.name, lambda x: view(before.view(x)), places))

    def _follow(self, array: Tensor, part: Part) -> None:
        self._parts[id(array)] = (array, part)

    def _refuse(self, array: Any, name: str) -> None:
        of = self._parts[id(array)][1].name if self.learns(array) else "an array"
        self.refused = self.refused or f"{of} is used by {name}"


def _look_up(rows: Tensor) -> Callable[[Tensor], Tensor]:
    def look_up(table: Tensor) -> Tensor:
        if table.is_floating_point():
            return F.embedding(rows, table)
        return table[rows]

    return look_up


def _is_plain(value: Any) -> bool:
    """Return whether an argument of a view is made of numbers alone."""
    if isinstance(value, tuple | list):
        return all(_is_plain(each) for each in value)
    return value is None or value is ... or isinstance(value, int | slice | torch.Size | torch.SymInt)
