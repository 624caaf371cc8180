"""Which samples a dominator feeds, in which order: the same on every machine, so that a repeated pass repeats
exactly.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

STALENESS = (0, 1)
"""The number of updates by which weights may be old that a gradient is taken at."""


@dataclass(frozen=True)
class Pass:
    """The mini-batches of one dominator's data, numbered from boundary `first` to `end`.

    Every `every` mini-batches and at its end the pipeline is empty and all pieces are saved. In between, with
    `staleness` 1, a mini-batch enters before the one ahead of it has updated: its gradient is that of the
    weights before that update, always.
    """

    first: int
    end: int
    every: int = 1
    staleness: int = 0

    def drained(self, boundary: int) -> bool:
        """Return whether nothing is under way at this boundary."""
        return boundary == self.end or (boundary - self.first) % self.every == 0

    def under_way(self, boundary: int) -> range:
        """Return the mini-batches that a piece works on once those before `boundary` have updated it."""
        more = 0 if self.drained(boundary + 1) else self.staleness
        return range(boundary, min(boundary + 1 + more, self.end))


def warmed(rate: float, step: int, warmup: int) -> float:
    """Return the learning rate of update `step`, counted from 1, that rises to `rate` in `warmup` updates."""
    return rate * min(1.0, step / warmup) if warmup else rate


def pass_order(samples: int, *, seed: int, epoch: int, device: int) -> npt.NDArray[np.int64]:
    """Return the order in which `device` feeds its samples in `epoch`: int64 [samples]."""
    return np.random.default_rng((seed, epoch, device)).permutation(samples)


def dominator_order(members: Sequence[int], *, seed: int, epoch: int) -> list[int]:
    """Return the order in which a group's devices are dominator in `epoch`: each once."""
    order = np.random.default_rng((seed, epoch, members[0], 1)).permutation(len(members))
    return [members[i] for i in order]


def mini_batches(samples: int, batch: int, least: int = 1) -> list[range]:
    """Return positions of each mini-batch of a pass.

    A last mini-batch of one sample would have no variance for batch norm: it takes one from its neighbour, or
    joins it where that has two and `least` is more than one.
    """
    edges = [*range(0, samples, batch), samples]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:
        if batch > 2:
            edges[-2] -= 1
        elif least > 1:
            del edges[-2]
    return [range(a, b) for a, b in itertools.pairwise(edges) if b > a]


def count_mini_batches(samples: int, batch: int, least: int = 1) -> int:
    """Count the mini-batches of a pass, without making them: a device may claim billions of samples."""
    count = -(-samples // batch)
    joins = count > 1 and samples - (count - 1) * batch == 1 and batch <= 2 and least > 1
    return count - joins


def micro_batches(rows: int, micro: int, least: int = 1) -> list[range]:
    """Return a mini-batch of `rows` in parts of `micro`, in the same way."""
    return mini_batches(rows, micro, least)


def dropout_mask(
    rows: int, neurons: int, probability: float, *, seed: int, step: int, micro: int, layer: int
) -> npt.NDArray[np.float32]:
    """Return a layer's dropout factors (0 or 1/(1-p)), float32 [rows, neurons]: the same however the layer is
    cut.
    """
    rng = np.random.default_rng((seed, step, micro, layer))
    kept = rng.random((rows, neurons), np.float32) >= probability
    return kept.astype(np.float32) / np.float32(1.0 - probability)
