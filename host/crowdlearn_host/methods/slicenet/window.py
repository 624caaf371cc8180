"""The sliding window of shared weights: its average is the global model (SliceNet)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from crowdlearn_device.sharing.update import Update
from numpy.typing import NDArray

from crowdlearn_host.errors import UpdateRefused

Floats = NDArray[np.float32]
MAX_OMEGA = 255


class Window:
    """Per weight the last `omega` uploads, exactly; a weight not uploaded yet keeps its initial value.

    Takes 4 * (omega + 2) + 2 bytes a weight (`nbytes`), whatever arrives, and 16 more while it averages. The
    average is computed when it is asked for, not when an update arrives.
    """

    def __init__(self, initial: Floats, omega: int) -> None:
        if not 1 <= omega <= MAX_OMEGA:
            raise ValueError(f"omega is {omega}; choose 1 to {MAX_OMEGA} uploads")
        self.omega = omega
        self._initial = initial.astype(np.float32)
        self._uploads = np.zeros((omega, len(initial)), np.float32)
        self._counts = np.zeros(len(initial), np.uint8)
        self._next = np.zeros(len(initial), np.uint8)
        self._average: Floats | None = None

    def __len__(self) -> int:
        return len(self._initial)

    @property
    def nbytes(self) -> int:
        """Bytes that the window holds between two rounds."""
        return 4 * len(self) * (self.omega + 2) + 2 * len(self)

    @property
    def counts(self) -> NDArray[np.uint8]:
        """Uploads in the window, per weight: at most omega."""
        return self._counts.copy()

    def apply(self, update: Update) -> None:
        """Takes an update in; the oldest upload of each weight falls out where omega are there already.

        Raises UpdateRefused, with nothing changed, where indices or values are not sound.
        """
        check_update(update, len(self))
        at = update.indices.astype(np.int64)
        slot = self._next[at]
        # As one vector, which numpy writes to several times sooner than by two indices.
        self._uploads.reshape(-1)[slot * np.int64(len(self)) + at] = update.values
        self._next[at] = np.where(slot == self.omega - 1, 0, slot + 1)
        self._counts[at] = np.minimum(self._counts[at], self.omega - 1) + 1
        self._average = None

    def average(self) -> Floats:
        """The global model: per weight the mean over the window."""
        if self._average is None:
            sums = self._uploads.sum(axis=0, dtype=np.float64)
            means = sums / np.maximum(self._counts, 1)
            self._average = np.where(self._counts > 0, means, self._initial).astype(np.float32)
            self._average.flags.writeable = False
        return self._average

    def download(self, tau: float) -> tuple[NDArray[np.uint32], Floats]:
        """Indices, increasing, and averages of the weights uploaded more than omega * tau times."""
        indices = np.flatnonzero(self._counts > self.omega * tau)
        return indices.astype(np.uint32), self.average()[indices]

    def state(self) -> dict[str, NDArray[Any]]:
        """All that the window remembers, as arrays; `from_state` makes it anew."""
        return {
            "initial": self._initial,
            "uploads": self._uploads,
            "counts": self._counts,
            "next": self._next,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> Window:
        """The window that `state()` told of."""
        window = cls(state["initial"], len(state["uploads"]))
        window._uploads[:] = state["uploads"]
        window._counts[:] = state["counts"]
        window._next[:] = state["next"]
        return window


def check_update(update: Update, model_weights: int) -> None:
    """Raises UpdateRefused where indices do not increase strictly in range, or a value is not finite."""
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
