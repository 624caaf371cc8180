"""Where values lie in the arena: on whole cache lines, in memory that was used a moment ago.

A step goes through more memory than a cache holds. What was used last is still there, so a value that is made
takes its place. The largest values choose first: then the arena is hardly larger than what is alive at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from executorch.exir.memory_planning import MemoryAlgoResult, SpecAllocResult
from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite as Suite
from executorch.exir.tensor import TensorSpec

LINE = 64
"""Bytes of a cache line, and of the longest register."""

HEADER = 16
"""Bytes of a line before a large block: glibc writes as many to its page first. Android's Scudo ends a block
with its page, so the size of an arena decides where that begins: at the same place of a line.
"""


class WarmPlanning(Suite):  # type: ignore[misc]
    """The planning of memory that `places` does, as ExecuTorch's passes call it."""

    def __init__(self) -> None:
        super().__init__([_planned])


def _planned(
    alignment: int, specs: Sequence[TensorSpec], module: Any, signature: Any, padding: int = 0
) -> MemoryAlgoResult:
    """Return the place of every value of a method: one arena, behind that of constants, which is empty."""
    offsets, size = places([(spec.realign(LINE), *spec.lifetime) for spec in specs])
    start = LINE - HEADER if specs else 0
    found = zip(specs, offsets, strict=True)
    return MemoryAlgoResult(
        {spec: SpecAllocResult(1, number, start + at) for number, (spec, at) in enumerate(found)},
        [0, start + size],
    )


def places(values: Sequence[tuple[int, int, int]]) -> tuple[list[int], int]:
    """Return the offset of every value, and the bytes of all together; a value is its bytes and the moments
    when it is made and last read. What is alive at the same moment lies side by side.
    """
    table = np.array(values, np.int64).reshape(-1, 3)
    sizes, made, read = -(-table[:, 0] // LINE) * LINE, table[:, 1], table[:, 2]
    begins, ends = np.zeros_like(sizes), np.zeros_like(sizes)
    chosen = np.zeros(len(sizes), bool)
    size = 0
    for value in np.lexsort((made, -sizes)):
        beside = chosen & (made <= read[value]) & (read >= made[value])
        earlier = chosen & (read < made[value])
        fitting, rest = _room(begins[beside], ends[beside], sizes[value], size)
        at = rest
        if len(fitting):
            shared = np.minimum(ends[earlier], fitting[:, None] + sizes[value]) - np.maximum(
                begins[earlier], fitting[:, None]
            )
            warmth = np.maximum(shared, 0) / (made[value] - read[earlier])
            at = int(fitting[warmth.sum(1).argmax()])
        begins[value], ends[value], chosen[value] = at, at + sizes[value], True
        size = max(size, int(ends[value]))
    return begins.tolist(), size


def _room(begins: Any, ends: Any, needed: int, size: int) -> tuple[Any, int]:
    """Return where `needed` bytes have room, at either end of each gap between other values below `size`; and
    where the last of them ends.
    """
    order = np.argsort(begins)
    taken = np.maximum.accumulate(np.append(0, ends[order]))
    until = np.append(begins[order], max(size, taken[-1]))
    wide = until - taken >= needed
    return np.unique(np.append(taken[wide], until[wide] - needed)), int(taken[-1])
