"""The norms of what groups add to a secure sum, from random projections that their devices send.

Masked values are at the host before the seed is drawn. A group whose projections are too large is refused by
name, before anything is unmasked. Once the sum is unmasked, its projections must be those of all devices
together: a device whose projections are not those of its values cannot be named then, and the sum is not
released.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import sqrt
from typing import Any, Self

import numpy as np
from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.privacy.aggregation.projection import (
    ROWS,
    SEED_BYTES,
    largest_square,
    projected,
    square_of,
)


class ContradictedError(AggregationError):
    """A sum whose projections are not those that its devices sent."""


@dataclass
class Norms:
    """The projections of an attempt: uint32 [ROWS] by device, or their `total` after a restart."""

    seed: bytes = field(default_factory=lambda: secrets.token_bytes(SEED_BYTES))
    by_device: dict[int, Words] = field(default_factory=dict)
    total: Words = field(default_factory=lambda: np.zeros(ROWS, np.uint32))

    def take(self, device: int, data: bytes) -> None:
        """Take a device's. Raises AggregationError if they are of another length."""
        if len(data) != 4 * ROWS:
            raise AggregationError(f"projections of {len(data)} bytes; {4 * ROWS} were due")
        self.by_device[device] = np.frombuffer(data, "<u4").astype(np.uint32, copy=False)
        self.total = self.total + self.by_device[device]

    def too_large(
        self, bound: float, numbers: FixedPoint, group_of: Mapping[int, int], words: Mapping[int, int]
    ) -> dict[int, float]:
        """Return by group the norms, as estimated, that are above the bound with its slack. `words` are
        numbers by device.
        """
        squares: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        for device, sent in self.by_device.items():
            squares[group_of[device]] += square_of(sent)  # type: ignore[assignment]
            sizes[group_of[device]] += words[device]
        return {
            group: sqrt(square) / (1 << numbers.fraction)
            for group, square in squares.items()
            if square > largest_square(bound, numbers, sizes[group])
        }

    def check(self, sum_: Words) -> None:
        """Raise ContradictedError if these are not the projections of a sum, uint32 [size]."""
        if not np.array_equal(projected(self.seed, ((0, len(sum_)),), sum_), self.total):
            raise ContradictedError(
                "a device showed other norms than its values have: the sum is not released"
            )

    def to_json(self) -> dict[str, Any]:
        """Return what a restarted host needs to check a sum."""
        return {"seed": self.seed.hex(), "total": self.total.tolist()}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `to_json` told of. Raises ValueError, KeyError or TypeError if it is damaged."""
        total = np.array(fields["total"], np.uint32)
        if len(total) != ROWS:
            raise ValueError(f"{len(total)} projections")
        return cls(bytes.fromhex(fields["seed"]), {}, total)
