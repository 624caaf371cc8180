"""Sharing by secure sums: the host gets the sum over all groups of each weight, and nothing of any group.

The weights of a round are a public lot, the same for every group: a device's own choice would reveal which
weights moved, and leave some of them with a single contributor. A weight's window holds the last
omega / groups means, so that with theta = 1 it is the window of the same uploads one by one.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.projection import (
    ROWS,
    SEED_BYTES,
    largest_square,
    projected,
    square_of,
)
from crowdlearn_device.privacy.dp.noisy_move import discrete_gaussian, share_of
from crowdlearn_device.protocol.frames import Floats

from crowdlearn_host.errors import ConfigError

if TYPE_CHECKING:
    from crowdlearn_export.graph.neuron_graph import NeuronGraph
    from torch import nn

LEAST_GROUPS = 8
"""Contributors below which no sum is released."""
ROOM = 4
"""Samples for each direction in which the first layer can move: fewer could be told apart in the sum."""
KEY_BYTES, SEALED_BYTES, TAG_BYTES, NUMBER_BYTES = 32, 64 + 16, 32, 4

PROJECTION_BYTES = SEED_BYTES + 4 * ROWS
"""Bytes of a device's projections and their seed."""


def least_contributors(rank: int, samples: int) -> int:
    """Return how many groups of `samples` samples each must contribute to a sum; `rank` is the rank that the
    first layer's move can have.
    """
    return max(LEAST_GROUPS, ceil(ROOM * rank / max(samples, 1)))


def check_secure(groups: int, omega: int, values: str) -> None:
    """Raise ValueError if groups cannot share securely."""
    if groups < LEAST_GROUPS:
        raise ValueError(
            f"sharing.secure releases sums of at least {LEAST_GROUPS} groups, and there are {groups}; "
            "form more groups, or leave it out"
        )
    if omega % groups:
        raise ValueError(
            f"sharing.omega = {omega}, but the host gets sums of {groups} groups: choose a multiple, or 0"
        )
    if values != "float32":
        raise ValueError("sharing.secure sends fixed point of 32 bits: leave out sharing.values")


def check_norm_bound(*, all_weights: bool, noise: bool, private: bool) -> None:
    """Raise ValueError if the norms of what groups add to a sum cannot be bounded.

    Projections show the host a little of each group's move, which is the move's own noise that hides.
    """
    if not all_weights:
        raise ValueError("sharing.norm_bound is for secure sums of all weights: set secure, and theta = 1")
    if noise:
        raise ValueError(
            "sharing.noise would be most of the norm that sharing.norm_bound checks: leave out one of them"
        )
    if not private:
        raise ValueError(
            "sharing.norm_bound shows the host random projections of each group's move, which tell who "
            "trained on a sample unless DP-SGD hides it: set privacy.epsilon or noise"
        )


def check_release(rank: int, samples: int, groups: int) -> None:
    """Raise ConfigError if sums over these groups reveal too much of their samples."""
    least = least_contributors(rank, samples)
    if groups < least:
        raise ConfigError(
            f"sharing.secure: a sum of {groups} groups of {samples} samples is not released, for the first "
            f"layer could move in {rank} directions; {least} groups, or more samples a device, are needed"
        )


def rank_of(graph: NeuronGraph, model: nn.Module) -> int:
    """Return the directions in which the weights of the first layer can move; of a model without layers of
    neurons, those of the array that has most.
    """
    arrays = dict(model.named_parameters())
    of_edges = (arrays.get(f"{edge.module}.weight") for edge in graph.edges)
    first = next((weight for weight in of_edges if weight is not None), None)
    moving = arrays.values() if first is None else [first]
    return max((min(each.flatten(1).shape) for each in moving if each.dim() > 1), default=1)


def clipped(move: Floats, clip: float) -> Floats:
    """Return a group's move of a round, float32 [n], shortened to the norm `clip` if it is longer."""
    norm = float(np.linalg.norm(move.astype(np.float64)))
    return move if norm <= clip else (move * (clip / norm)).astype(np.float32)


class SecureSum:
    """The sum of one vector of every group, uint32 [size], in the words that devices mask.

    Masks cancel to the bit, so that a simulation adds none. With `noise` every group adds its share of a
    discrete Gaussian before it masks. A sum of `least` groups, the fewest that are released, has this
    deviation, and its noise is secret from every group. With `bound` a vector that is longer, by its random
    projections, is refused. Raises AggregationError if a value does not fit.
    """

    def __init__(
        self,
        size: int,
        groups: int,
        noise: float = 0.0,
        seed: tuple[int, ...] = (0,),
        least: int = 0,
        bound: float = 0.0,
    ) -> None:
        self._numbers, self._groups = FixedPoint(groups), groups
        self._least = least
        self._share, self._rng = share_of(noise, least or groups), np.random.default_rng(seed)
        self._total: Words = np.zeros(size, np.uint32)
        self._added, self._bound = 0, bound
        self.refused = 0
        """The vectors that were longer than the bound."""

    def add(self, values: Floats) -> None:
        """Add a group's vector, float32 [size], unless it is refused."""
        words = self._numbers.encode(values)
        if self._bound:
            shown = projected(self._rng.bytes(SEED_BYTES), ((0, len(words)),), words)
            if square_of(shown) > largest_square(self._bound, self._numbers, len(words)):
                self.refused += 1
                return
        if self._share:
            steps = self._share * (1 << self._numbers.fraction)
            words += discrete_gaussian(steps, len(words), self._rng).astype(np.uint32)
        self._total += words
        self._added += 1

    def mean(self) -> Floats:
        """Return the mean over the groups that were not refused, float32 [size]; nothing but all of them
        together is released.
        """
        if self._added + self.refused != self._groups:
            raise ConfigError(f"{self._added} of {self._groups} groups contributed; the sum is not released")
        if self._added < self._least:
            raise ConfigError(
                f"{self.refused} groups moved further than sharing.norm_bound = {self._bound:g}, and a sum "
                f"of {self._added} is not released; {self._least} are needed"
            )
        mean: Floats = (self._numbers.decode(self._total) / self._added).astype(np.float32)
        return mean


def secure_bytes(words: int, groups: int) -> int:
    """Return the bytes that a device sends and gets for a secure sum of `words` weights, but for the result:
    the masked vector, keys, sealed shares, confirmations and revealed shares of all others.
    """
    others = groups - 1
    each = 2 * KEY_BYTES + NUMBER_BYTES
    up = 4 * words + each + others * (SEALED_BYTES + TAG_BYTES + 4 * NUMBER_BYTES) + groups * each // 2
    down = others * (each + SEALED_BYTES + TAG_BYTES + 4 * NUMBER_BYTES) + groups * NUMBER_BYTES
    return up + down
