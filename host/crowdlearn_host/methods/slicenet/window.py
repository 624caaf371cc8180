"""The sliding window of shared weights: its average is the global model (SliceNet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from crowdlearn_device.sharing.update import Update
from numpy.typing import NDArray

from crowdlearn_host.errors import UpdateRefused

from .combining import COMBINATIONS, Combination

Floats = NDArray[np.float32]
BLOCK = 1 << 18
"""Weights that are taken in at a time: no temporary array is longer."""
DROWNED = float(1 << 20)
"""An upload this many times as large as the sum it leaves has cost the sum its digits."""


def window_bytes(weights: int, omega: int) -> tuple[int, int]:
    """Return what a window of `omega` uploads of so many weights takes on disk, and in memory beside that."""
    in_file = 4 * omega * weights
    counters = 2 * np.min_scalar_type(omega).itemsize
    return in_file, weights * (8 + counters + (8 if omega > 1 else 0))


class Window:
    """The last `omega` uploads of each weight, exactly; a weight not uploaded yet keeps its initial value.

    An update costs what it holds, and the average what the model has, whatever omega is: beside the uploads
    stands the sum of each weight's, float64 [weights]. Every omega-th upload of a weight its sum is taken
    anew, so that no rounding outlives the window. Takes `nbytes` in all; `uploads`, float32 [omega, weights],
    may lie in a file (`open_window`). With omega = 1 the upload is the average, and there are no sums.

    Raises ValueError for an omega below 1.
    """

    def __init__(self, initial: Floats, omega: int, uploads: Floats | None = None) -> None:
        if omega < 1:
            raise ValueError(f"omega is {omega}; choose 1 upload or more")
        self.omega = omega
        counter = np.min_scalar_type(omega)
        self._initial = initial.astype(np.float32, copy=False)
        self._uploads = np.zeros((omega, len(initial)), np.float32) if uploads is None else uploads
        self._counts: NDArray[Any] = np.zeros(len(initial), counter)
        self._next: NDArray[Any] = np.zeros(len(initial), counter)
        self._sums = np.zeros(len(initial) if omega > 1 else 0, np.float64)
        self._average: Floats | None = None
        self._combination: Combination = COMBINATIONS["mean"]

    def combine(self, combination: Combination) -> None:
        """Combine a weight's uploads so from now on."""
        self._combination, self._average = combination, None

    def __len__(self) -> int:
        return len(self._initial)

    @property
    def nbytes(self) -> int:
        """Return bytes that the window holds between two rounds, its average among them."""
        return sum(window_bytes(len(self), self.omega))

    @property
    def counts(self) -> NDArray[Any]:
        """Return uploads in the window, per weight: at most omega. They are int64 [floats]."""
        return self._counts.copy()

    def apply(self, update: Update) -> None:
        """Take an update in; the oldest upload of each weight falls out where omega are there already.

        Raises UpdateRefused, with nothing changed, where indices or values are not sound.
        """
        check_update(update, len(self))
        for start in range(0, len(update), BLOCK):
            part = slice(start, start + BLOCK)
            self._take(update.indices[part].astype(np.int64), update.values[part])
        self._average = None

    def _take(self, at: NDArray[np.int64], values: Floats) -> None:
        slot = self._next[at]
        # As one vector, which numpy reads and writes several times sooner than by two indices.
        ring, cells = self._uploads.reshape(-1), slot * np.int64(len(self)) + at
        leaving = ring[cells] if self.omega > 1 else values
        ring[cells] = values
        self._next[at] = np.where(slot == self.omega - 1, 0, slot + 1)
        self._counts[at] = np.minimum(self._counts[at], self.omega - 1) + 1
        if self.omega > 1:
            sums = self._sums[at] + (values.astype(np.float64) - leaving)
            anew = (at % self.omega == slot) | (np.abs(leaving) > DROWNED * np.abs(sums))
            sums[anew] = self._uploads[:, at[anew]].sum(axis=0, dtype=np.float64)
            self._sums[at] = sums

    def average(self) -> Floats:
        """Return the global model: per weight the combination of the window's uploads, the mean unless
        another was asked for: float32 [weights].
        """
        if self._average is None:
            self._average = np.concatenate(
                [self.averaged(start, start + BLOCK) for start in range(0, len(self), BLOCK)]
                or [self._initial]
            )
            self._average.flags.writeable = False
        return self._average

    def averaged(self, start: int, stop: int) -> Floats:
        """Return the average of the weights at [start, stop), float32 [stop - start]."""
        counts = self._counts[start:stop]
        means: NDArray[Any]
        if self.omega == 1:
            means = self._uploads[0, start:stop]
        elif self._combination.name != "mean":
            own = np.maximum(counts, 1).astype(np.int64)
            means = self._combination.of(self._uploads[:, start:stop], own)
        else:
            means = self._sums[start:stop] / np.maximum(counts, 1)
        return np.where(counts > 0, means, self._initial[start:stop]).astype(np.float32)

    def download(
        self, tau: float, start: int = 0, stop: int | None = None
    ) -> tuple[NDArray[np.uint32], Floats]:
        """Return indices, increasing, and averages of the weights at [start, stop) that were uploaded more
        than omega * tau times.
        """
        stop = len(self) if stop is None else stop
        often = np.flatnonzero(self._counts[start:stop] > self.omega * tau)
        return (often + start).astype(np.uint32), self.averaged(start, stop)[often]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return all that the window remembers, as arrays; `from_state` makes it anew.

        Each is [floats] or [omega, floats].
        """
        return {"initial": self._initial, "uploads": self._uploads, **self.counters()}

    def counters(self) -> dict[str, NDArray[Any]]:
        """Return where in the window each weight stands: `counts` and `next`, unsigned [weights]."""
        return {"counts": self._counts, "next": self._next}

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Window:
        """Return the window that `state()` was taken of. Each array is [floats] or [omega, floats]."""
        window = cls(state["initial"], len(state["uploads"]), state["uploads"].copy())
        window._counts[:] = state["counts"]
        window._next[:] = state["next"]
        window.add_up()
        return window

    def add_up(self) -> None:
        """Take all sums anew, after the uploads were changed from outside."""
        self._average = None
        if self.omega > 1:
            self._sums[:] = 0
            for row in self._uploads[: int(self._counts.max(initial=0))]:
                self._sums += row


def check_update(update: Update, model_weights: int) -> None:
    """Raise UpdateRefused if indices do not increase strictly in range, or a value is not finite."""
    indices = update.indices
    if indices.ndim != 1 or indices.shape != update.values.shape:
        raise UpdateRefused(update.owner, f"{indices.shape} indices and {update.values.shape} values")
    if len(indices) == 0:
        return
    if not (indices[1:] > indices[:-1]).all():
        raise UpdateRefused(update.owner, "its indices do not increase strictly")
    if int(indices[-1]) >= model_weights or int(indices[0]) < 0:
        raise UpdateRefused(update.owner, f"index {indices[-1]} is not one of {model_weights} weights")
    if not np.isfinite(update.values).all():
        raise UpdateRefused(update.owner, "it holds values that are not finite")
