"""The gate of every model: evaluated twice, it must answer the same, whatever else is in its batch.

A forward that draws random numbers in evaluation mode, or that uses statistics of the batch. It has no
accuracy to state, and no program for inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from crowdlearn_export.errors import UnsupportedModule
from crowdlearn_export.ops.local_ops import describe

from .copies import copied

ROWS = 5
ONE_OUTPUT = (
    "the model's output: one tensor is possible; join several, as torch.cat([first, second], 1) does, and "
    'give a loss of your own that takes them apart (loss = {kind = "own", ...})'
)
AGREEMENT = 1e-4
"""Largest relative difference of a sample's scores between batches, in float32."""


def check_evaluation(model: nn.Module, sample: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
    """Run a copy of the model in evaluation mode, twice and on part of the batch. `sample` is the shape of
    one sample.

    Raises UnsupportedModule naming the module that draws random numbers, or if scores differ between runs or
    batches.
    """
    tried = copied(model).eval()
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, *sample, generator=draw)
    x = x if dtype.is_floating_point else (x > 0).to(dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), Watch(tried) as watch:
        first, again, part = (_run(tried, rows) for rows in (x, x, x[:-1]))
    if watch.drawn:
        raise UnsupportedModule(
            f"{watch.drawn} draws random numbers in evaluation mode; draw only where self.training is True, "
            "as F.dropout(x, p, training=self.training) does"
        )
    if not torch.equal(first.nan_to_num(), again.nan_to_num()):
        raise UnsupportedModule(
            f"{type(model).__name__} gives other scores each time in evaluation mode; its forward must not "
            "depend on random numbers or earlier calls then"
        )
    if first[:-1].shape == part.shape and not agree(first[:-1], part):
        raise UnsupportedModule(
            f"{type(model).__name__} gives a sample other scores in another batch in evaluation mode; "
            "batch norm must use its running statistics then"
        )


def ran(
    model: nn.Module, x: Tensor, *, or_else: str = "", advice: str = "it must take batches of any size"
) -> Any:
    """Return what the model gives for a copy of samples [B, ...]. Raises UnsupportedModule with its error's
    first line and `advice` if it fails.
    """
    try:
        return model(x.clone())
    except Exception as error:  # whatever a user's model raises
        first = str(error).partition("\n")[0]
        raise UnsupportedModule(
            f"the model does not run on a batch of {len(x)}{or_else}: {first}; {advice}"
        ) from error


def agree(one: Tensor, other: Tensor) -> bool:
    """Return whether two arrays of scores [B, ...] are the same but for float32's rounding."""
    one, other = one.nan_to_num(), other.nan_to_num()
    limit = AGREEMENT * max(float(one.abs().max()), 1e-6) if one.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=limit)


def _run(model: nn.Module, x: Tensor) -> Tensor:
    scores = ran(model, x)
    if not isinstance(scores, Tensor):
        raise UnsupportedModule(ONE_OUTPUT)
    return scores


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that notes in `drawn` the first module of a model that draws random numbers, and by which
    function.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn = ""
        self._running: list[str] = []
        self._calls = _Calls()
        for name, module in model.named_modules():
            called = describe(name, module) if name else type(module).__name__
            module.register_forward_pre_hook(lambda *_, called=called: self._running.append(called))
            module.register_forward_hook(lambda *_: self._running.pop() and None)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else PyTorch's compiler is imported to skip this mode, which takes a second

    def __enter__(self) -> Watch:
        self._calls.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._calls.__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.Tag.nondeterministic_seeded not in func.tags or self.drawn:
            return func(*args, **(kwargs or {}))
        before = torch.random.get_rng_state()  # some of these draw only if they are told to
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.random.get_rng_state()):
            self.drawn = f"{self._running[-1] if self._running else 'the model'}: {self._calls.last}"
        return result


class _Calls(TorchFunctionMode):
    """The name of the function of PyTorch that was called last."""

    last = "a random function"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.last = getattr(func, "__name__", self.last)
        return func(*args, **(kwargs or {}))
