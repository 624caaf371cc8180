"""What the pieces of a group send each other in a step of DP-SGD: norms to the dominator, factors back.

Every piece sends the dominator one number a sample. When all are there, it sends each piece the clip factors,
and the key of that piece's noise. A step may have no samples: then it is noise alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from crowdlearn_device.errors import WireError
from crowdlearn_device.privacy.dp.draws import KEY_BYTES, Draws, gaussian
from crowdlearn_device.program.manifest import Manifest
from crowdlearn_device.protocol import wire_pb2 as pb
from crowdlearn_device.protocol.frames import Floats

DOMINATOR = 0
Squares = npt.NDArray[np.float64]
SMALL = 1e-12
"""A norm in place of 0."""


@dataclass(frozen=True)
class Clipping:
    """The demand of a run on every step: gradients of samples have the norm `clip` at most, and noise is
    `noise` times that.
    """

    clip: float
    noise: float


def clipping_of(training: pb.Training, manifest: Manifest) -> Clipping | None:
    """Return the clipping that an assignment asks for; None if its steps are plain. Raises WireError if they
    would not be DP-SGD.
    """
    if not training.HasField("clipping"):
        return None
    given = training.clipping
    if not (isfinite(given.clip) and given.clip > 0 and isfinite(given.noise) and given.noise >= 0):
        raise WireError(f"gradients clipped to {given.clip} with noise {given.noise}: no such step")
    wrong = {
        "a wire whose rounding depends on other samples": training.wire != pb.FLOAT32,
        "mini-batches that overlap": training.staleness > 0,
        "masked sums": training.masked > 0,
        "changed samples (augment)": bool(training.augment),
        "clip_norm": manifest.optimizer.clip_norm > 0,
    }
    if asked := [name for name, is_asked in wrong.items() if is_asked]:
        raise WireError(f"the run clips the gradient of each sample, and that goes without {asked[0]}")
    return Clipping(given.clip, given.noise)


def most_rows(training: pb.Training) -> int:
    """Return how many samples a mini-batch may have: the last one may join another, and a draw may be larger
    than the mean.
    """
    return 2 * training.batch + 64 if training.HasField("clipping") else training.batch + 1


@dataclass(frozen=True)
class Factors:
    """The end of a step: factors float32 [rows], the deviation of the noise and its key, and the divisor."""

    factors: Floats
    deviation: float
    divisor: float
    key: bytes


def factors_of(squares: Sequence[npt.NDArray[Any]], clip: float) -> Floats:
    """Return the clip factors of samples, float32 [rows], by squared norms of each piece, float64 [rows]."""
    total = np.sum(squares, axis=0, dtype=np.float64)
    factors: Floats = np.minimum(clip / np.maximum(np.sqrt(total), SMALL), 1.0).astype(np.float32)
    return factors


class PrivateSteps:
    """The norms and factors of the piece `index` of a group of `pieces`."""

    def __init__(self, clipping: Clipping, pieces: int, index: int) -> None:
        self.clipping = clipping
        self._pieces, self._index = pieces, index
        self._draws: tuple[Draws, int] | None = None
        self._secret = False
        self._squares: dict[int, dict[int, Floats]] = {}
        self._factors: dict[int, Factors] = {}
        self._outgoing: list[tuple[int, pb.Norm]] = []

    def draw_from(self, draws: Draws, first: int, *, secret: bool) -> None:
        """Take the dominator's draws of the pass that began at boundary `first`."""
        self._draws, self._secret = (draws, first), secret

    def end_without_samples(self, step: int) -> None:
        """End a step of the dominator's that drew no samples."""
        self._end(step, np.zeros(0, np.float32), b"")

    def tell(self, step: int, rows: int, squares: Mapping[int, Squares]) -> None:
        """Send the dominator this piece's squared norms of a step of so many samples, float64 [n] by
        micro-batch; none if nothing here learns.
        """
        parts = [squares[micro] for micro in sorted(squares)]
        joined = np.concatenate(parts).astype(np.float32) if parts else np.zeros(rows, np.float32)
        if self._index == DOMINATOR:
            self._put(step, DOMINATOR, joined)
        else:
            self._outgoing.append((DOMINATOR, pb.Norm(step=step, squares=joined)))

    def receive(self, partner: int, norm: pb.Norm) -> None:
        """Take another piece's norms, or the dominator's factors. Raises WireError if they were not due."""
        if self._index == DOMINATOR:
            self._put(norm.step, partner, np.array(norm.squares, np.float32))
            return
        if partner != DOMINATOR or norm.step in self._factors:
            raise WireError(f"clip factors of step {norm.step} by piece {partner} that were not due")
        factors = np.array(norm.factors, np.float32)
        good = (
            isfinite(norm.deviation) and norm.deviation >= 0 and isfinite(norm.divisor) and norm.divisor > 0
        )
        if not good or len(norm.key) != KEY_BYTES or not ((factors >= 0) & (factors <= 1)).all():
            raise WireError(f"clip factors of step {norm.step}, their noise or their key cannot be")
        self._factors[norm.step] = Factors(factors, norm.deviation, norm.divisor, norm.key)

    def _put(self, step: int, piece: int, squares: Floats) -> None:
        known = self._squares.setdefault(step, {})
        if piece in known:
            raise WireError(f"the norms of piece {piece} at step {step} came twice")
        if not (np.isfinite(squares) & (squares >= 0)).all():
            raise WireError(f"the squared norms of piece {piece} at step {step} are none; training diverged")
        known[piece] = squares
        if len({len(each) for each in known.values()}) > 1:
            raise WireError(f"piece {piece} has norms of {len(squares)} samples at step {step}, others not")
        if len(known) == self._pieces:
            known_squares = [known[each] for each in range(self._pieces)]
            del self._squares[step]
            factors = factors_of(known_squares, self.clipping.clip)
            self._end(step, factors, b"".join(each.tobytes() for each in known_squares))

    def _end(self, step: int, factors: Floats, seen: bytes) -> None:
        """Send every piece the end of the step. Where draws are secret, noise depends on the norms, too: a
        step that is repeated with other weights has other noise.
        """
        if self._draws is None:
            raise WireError(f"norms of step {step} before the dominator feeds samples")
        draws, first = self._draws
        deviation, bound = self.clipping.clip * self.clipping.noise, seen if self._secret else b""
        for piece in range(self._pieces):
            key = draws.key(step - first, piece, bound)
            if piece == self._index:
                self._factors[step] = Factors(factors, deviation, draws.expected, key)
                continue
            norm = pb.Norm(step=step, factors=factors, deviation=deviation, divisor=draws.expected, key=key)
            self._outgoing.append((piece, norm))

    def take_messages(self) -> list[tuple[int, pb.Norm]]:
        """Return what waits to be sent to other pieces, once."""
        messages, self._outgoing = self._outgoing, []
        return messages

    def rows(self, step: int) -> int | None:
        """Return the number of samples of a step whose factors are here; None if they are not."""
        found = self._factors.get(step)
        return None if found is None else len(found.factors)

    def pop(self, step: int) -> Factors:
        """Return what ends a step, and forget it."""
        return self._factors.pop(step)


def with_noise(manifest: Manifest, sums: Mapping[str, Floats], ends: Factors) -> dict[str, Floats]:
    """Return the gradients of a step, float32 [neurons, ...] by array: clipped sums, noise added, divided."""
    learning = [array for array in manifest.arrays if array.trained]
    shapes = [(manifest.layers[array.layer].owned, *array.shape) for array in learning]
    noise = gaussian(ends.key, sum(map(prod, shapes)))
    noise *= np.float32(ends.deviation)
    found, at = {}, 0
    for array, shape in zip(learning, shapes, strict=True):
        part = noise[at : at + prod(shape)].reshape(shape)
        at += part.size
        if array.name in sums:
            part += sums[array.name]
        part /= np.float32(ends.divisor)
        found[array.name] = part
    return found
