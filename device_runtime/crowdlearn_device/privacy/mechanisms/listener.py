"""The listener at the chain's end: a tap records what the host gets to know of this device's samples.

Sums and errors are recorded where they arrive (member/roles/piece_pass.py): their receiver learns from them.
"""

from __future__ import annotations

import numpy as np

from crowdlearn_device.privacy.tap import Record, Tap
from crowdlearn_device.protocol.frames import Floats

from .base import Indices, Mechanism, Metrics, Place


class Listener(Mechanism):
    """A tap on shared weights and metrics as they leave. It changes nothing."""

    name = "listener"

    def __init__(self, tap: Tap, place: Place) -> None:
        super().__init__({}, place)
        self._tap = tap

    def weights(self, indices: Indices, values: Floats, number: int) -> Floats:
        place = self.place
        for kind, array in (("indices", indices), ("values", values)):
            copy = np.array(array)
            self._tap.record(
                Record("shared", copy, place.generation, place.epoch, number, piece=place.piece, name=kind)
            )
        return values

    def metrics(self, metrics: Metrics) -> Metrics | None:
        place = self.place
        numbers = np.array([metrics.rows, metrics.loss, metrics.correct, *metrics.own.values()])
        self._tap.record(Record("metrics", numbers, place.generation, place.epoch, 0, piece=place.piece))
        return metrics
