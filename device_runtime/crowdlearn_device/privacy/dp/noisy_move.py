"""Moves in a secure sum: how a group moved in a round, clipped over all of its pieces, with shares of noise
where that is asked for.

The host sends each holder what its piece was when the round began. A reference that is false changes what is
shared, and not how much one group can change the sum: that is bounded by the clip in any case. Each device
adds its share before it masks, so that the sum has noise that no party can subtract.
"""

from __future__ import annotations

import secrets
from collections.abc import Set
from dataclasses import dataclass, field
from math import isfinite, sqrt

import numpy as np
import numpy.typing as npt

from crowdlearn_device.errors import AggregationError
from crowdlearn_device.privacy.aggregation.fixed_point import FixedPoint, Words
from crowdlearn_device.protocol.frames import Floats


@dataclass
class NoisyMove:
    """The move of one piece's weights that enters an attempt to sum: `words` of them, clipped to the norm
    `clip` over the pieces of the devices `group`. A sum of `least` groups has noise of `noise` times that.
    """

    clip: float
    noise: float
    least: int
    words: int
    group: Set[int]
    _reference: bytearray = field(default_factory=bytearray, repr=False)
    _move: Floats | None = field(default=None, repr=False)
    _squares: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isfinite(self.clip) and self.clip > 0 and isfinite(self.noise) and self.noise >= 0):
            raise AggregationError(f"a sum of moves clipped to {self.clip} with noise {self.noise}")

    def take_reference(self, part: bytes) -> bool:
        """Take a part of what the weights were, float32; whether all of it is here."""
        self._reference += part
        if len(self._reference) > 4 * self.words or len(part) % 4:
            raise AggregationError(f"a reference of {len(self._reference)} bytes for {self.words} weights")
        return len(self._reference) == 4 * self.words

    def moved(self, number: int, weights: Floats) -> float:
        """Take this device's weights, float32 [words]; return the square of their move's norm."""
        reference = np.frombuffer(bytes(self._reference), "<f4").astype(np.float32, copy=False)
        self._reference.clear()
        self._move = weights - reference
        wide = self._move.astype(np.float64)
        square = float(wide @ wide)
        self.take_square(number, square)
        return square

    def take_square(self, device: int, square: float) -> None:
        """Take that of another piece of the group. Raises AggregationError if it is none, or came twice."""
        if device not in self.group or device in self._squares or not (isfinite(square) and square >= 0):
            raise AggregationError(f"the square {square} of a move by device {device} was not due")
        self._squares[device] = square

    @property
    def ready(self) -> bool:
        """Return whether the move of every piece is known."""
        return self._move is not None and self._squares.keys() == self.group

    def encoded(self, numbers: FixedPoint) -> Words:
        """Return the clipped move with this device's share of the noise, uint32 [words]."""
        assert self._move is not None
        total = sqrt(sum(square for _, square in sorted(self._squares.items())))
        move = self._move if total <= self.clip else self._move * np.float32(self.clip / total)
        if not self.noise:
            return numbers.encode(move)
        rng = np.random.default_rng(secrets.randbits(256))
        deviation = share_of(self.clip * self.noise, self.least) * (1 << numbers.fraction)
        return numbers.encode(move) + discrete_gaussian(deviation, self.words, rng).astype(np.uint32)


def share_of(deviation: float, least: int) -> float:
    """Return the deviation of one group's share of noise: `least` groups, which a release takes, have all."""
    return deviation / sqrt(least)


def discrete_gaussian(deviation: float, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return whole numbers int64 [size] of the discrete Gaussian with this parameter.

    A discrete Laplace number is kept with the probability that makes it so (Canonne, Kamath, Steinke, 2020).
    """
    scale = int(deviation) + 1
    found = np.empty(0, np.int64)
    while len(found) < size:
        count = 2 * (size - len(found)) + 64
        drawn = rng.geometric(1 - np.exp(-1 / scale), (2, count)) - 1
        tried = drawn[0] - drawn[1]  # a discrete Laplace number
        keeps = np.exp(-((np.abs(tried) - deviation**2 / scale) ** 2) / (2 * deviation**2))
        found = np.concatenate([found, tried[rng.random(count) < keeps]])
    return found[:size]
