"""Samples away from kinks: where ReLU's or a maximum's input is very close to its kink, float32 and float64
may take different sides. Then gradients differ and neither is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crowdlearn_export.graph.activations import ACTIVATIONS
from crowdlearn_export.lowering.rules.pooling import pool_windows
from crowdlearn_export.lowering.rules.rows import from_rows, gather, tap_tables, to_rows
from crowdlearn_export.stages.stage import Stage, example_inputs
from crowdlearn_export.tracing.in_float64 import InFloat64

DRAWS = 10
FLOAT32 = 4
"""Times float32's own error, within which a side is taken by chance."""
MARGIN = 1e-6
"""The distance from a kink, in units of the map's standard deviation, at which samples are kept."""

aten = torch.ops.aten
KINKS = {operator: each.kinks for each in ACTIVATIONS for operator in each.operators}
"""The points at which the derivative of an operator jumps."""


def away_from_kinks(
    stage: Stage, inputs: tuple[Tensor, ...], generator: torch.Generator
) -> tuple[tuple[Tensor, ...], bool]:
    """Draw samples at a kink again among `inputs` of a stage, as far as DRAWS allow. Return the inputs, and
    whether none is left.

    Inputs are float32 [B, ...].
    """
    for _ in range(DRAWS):
        close = margins(stage, inputs) < MARGIN
        if not close.any():
            return inputs, True
        drawn = example_inputs(stage.inputs, int(close.sum()), generator)
        for position in stage.method.batched:
            inputs[position][close] = drawn[position]
    return inputs, False


def margins(stage: Stage, inputs: Sequence[Tensor]) -> Tensor:
    """Return how near each sample comes to a kink of ReLU or max pooling, in standard deviations of the
    map. They are float64 [B].
    """
    size = inputs[stage.method.batched[0]].shape[0] if stage.method.batched else 1
    with Margins(size) as watched, InFloat64():
        stage.reference(*double(inputs))
    return watched.least


def away_in_float32(stage: Stage, inputs: Sequence[Tensor]) -> bool:
    """Return whether all samples are further from every kink than a few times the error that float32 itself
    makes there: layer upon layer that grows beyond MARGIN. Inputs are float32 [B, ...].
    """
    size = inputs[stage.method.batched[0]].shape[0] if stage.method.batched else 1
    runs = []
    for given, kind in ((double(inputs), InFloat64()), (inputs, nullcontext())):
        with Distances(size) as watched, kind:
            stage.reference(*given)
        runs.append(watched.found)
    for exact, narrow in zip(*runs, strict=True):
        finite = exact.isfinite() & narrow.isfinite()
        if not finite.any():
            continue
        exact, narrow = exact[finite], narrow[finite].double()
        if exact.min() < FLOAT32 * (exact - narrow).abs().max():
            return False
    return True


def away_from_kinks_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the rows of `inputs` that are away from every kink of a float64 model: all where fewer than 2
    are.

    Inputs are float32 [B, ...].
    """
    rows = torch.arange(len(inputs))
    while len(rows) > 1:
        with torch.no_grad(), Margins(len(rows)) as watched, InFloat64():
            copy.deepcopy(model)(double([inputs[rows]])[0])
        close = watched.least < MARGIN
        if not close.any():
            return rows
        rows = rows[~close]
    return torch.arange(len(inputs))


def double(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same numbers in float64, where they are floating point. Tensors are of any shape [...]."""
    return [x.double() if x.is_floating_point() else x for x in inputs]


class Margins(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The watch over a computation of some samples: `least` is the least distance of each to a kink."""

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.least = torch.full((size,), torch.inf, dtype=torch.float64)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._watch(func, args)  # before it may overwrite what it reads
        return func(*args, **(kwargs or {}))

    def _watch(self, func: Any, args: tuple[Any, ...]) -> None:
        if func in KINKS:
            distances = [(args[0] - kink).abs() for kink in KINKS[func]]
            self._see(args[0], torch.stack(distances).amin(0))
        elif func in (aten.hardtanh.default, aten.hardtanh_.default):
            low, high = args[1:3]
            self._see(args[0], torch.minimum((args[0] - low).abs(), (args[0] - high).abs()))
        elif func is aten.max_pool2d_with_indices.default and len(found := _compared(*args)) > 1:
            first, second = found.topk(2, 0).values
            # Equal values are those that a ReLU has cut off, where no gradient passes.
            self._see(args[0], torch.where(first == second, torch.inf, first - second))

    def _see(self, x: Tensor, distance: Tensor) -> None:
        if len(x) % len(self.least) == 0:  # rows of a sample may lie side by side, as positions do
            nearest = distance.reshape(len(self.least), -1).amin(1)
            self.least = torch.minimum(self.least, nearest / x.std())


class Distances(Margins):  # type: ignore[no-untyped-call]
    """The same watch with all distances: `found` are those of every value to its kink, in standard
    deviations.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.found: list[Tensor] = []

    def _see(self, x: Tensor, distance: Tensor) -> None:
        self.found.append(distance / x.std())


def _compared(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Return what a max pool compares: [taps, B, C, OH, OW], nothing being lower than every number."""
    vertical, horizontal = pool_windows(x, kernel, stride, padding, dilation, ceil_mode)
    rows = to_rows(x)
    taps = [gather(rows, table, -torch.inf) for table in tap_tables(vertical, horizontal)]
    return torch.stack([from_rows(tap, vertical.outputs, horizontal.outputs) for tap in taps])
