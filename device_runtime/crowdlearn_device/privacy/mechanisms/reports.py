"""Mechanisms that report less of a dominator's samples than a loss for each mini-batch."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Mechanism, Metrics, Place


class ReportPasses(Mechanism):
    """A report of the mean over a whole pass, at its end. After a recovery within a pass, the mean is that of
    the mini-batches since.
    """

    name = "report_passes"

    def __init__(self, settings: Mapping[str, float], place: Place) -> None:
        super().__init__(settings, place)
        self._rows, self._loss, self._correct = 0, 0.0, 0
        self._own: dict[str, float] = {}

    def metrics(self, metrics: Metrics) -> Metrics | None:
        self._rows += metrics.rows
        self._loss += metrics.rows * metrics.loss
        self._correct += metrics.correct
        for name, mean in metrics.own.items():
            self._own[name] = self._own.get(name, 0.0) + metrics.rows * mean
        if not metrics.last:
            return None
        own = {name: total / self._rows for name, total in self._own.items()}
        return Metrics(self._rows, self._loss / self._rows, self._correct, last=True, own=own)


class ReportNothing(Mechanism):
    """No report: loss and hits stay on the device."""

    name = "report_nothing"

    def metrics(self, metrics: Metrics) -> Metrics | None:
        return None
