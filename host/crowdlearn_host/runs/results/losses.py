"""The training loss of a run, by one definition: the mean cross-entropy of a sample over an epoch's
mini-batches, each as it was when it was trained. What a recovery trains again counts once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any


class EpochLoss:
    """The training loss of each epoch, from the run's events as they come; a recovery may take mini-batches
    of a group's last two epochs back.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._sums: dict[tuple[int, int], tuple[int, float]] = {}
        self._steps: dict[int, list[_Step]] = {}
        for row in rows:
            if "boundary" in row:
                self.take("progress", row)

    def take(self, event: str, fields: Mapping[str, Any]) -> None:
        """Note an event of the run; only "progress" and "rolled_back" count."""
        group = int(fields.get("group", 0))
        if event == "progress":
            step = _Step(int(fields["boundary"]), int(fields["epoch"]), *_reported(fields))
            self._take_back(group, step.boundary)
            steps = self._steps.setdefault(group, [])
            if steps and steps[-1].epoch != step.epoch:
                steps[:] = [each for each in steps if each.epoch >= step.epoch - 1]
            steps.append(step)
            self._add(group, step, 1)
        elif event == "rolled_back":
            self._take_back(group, int(fields["boundary"]) + 1)

    def mean(self, epoch: int, group: int | None = None) -> float | None:
        """Return the mean over an epoch so far, of one group or of all; None before its first mini-batch."""
        found = [
            sums for (of, when), sums in list(self._sums.items()) if when == epoch and group in (None, of)
        ]
        samples = sum(rows for rows, _ in found)
        return sum(total for _, total in found) / samples if samples else None

    def _take_back(self, group: int, boundary: int) -> None:
        steps = self._steps.get(group, [])
        while steps and steps[-1].boundary >= boundary:
            self._add(group, steps.pop(), -1)

    def _add(self, group: int, step: _Step, times: int) -> None:
        rows, total = self._sums.get((group, step.epoch), (0, 0.0))
        self._sums[group, step.epoch] = rows + times * step.rows, total + times * step.rows * step.loss


@dataclass(frozen=True)
class _Step:
    """A mini-batch that was trained, with the loss that was reported after it, the mean over `rows`."""

    boundary: int
    epoch: int
    rows: int
    loss: float


def _reported(row: Mapping[str, Any]) -> tuple[int, float]:
    """Return the number of samples whose mean loss a row reports, and that mean."""
    if row.get("loss") is None:
        return 0, 0.0
    return int(row.get("reported", row["rows"])), float(row["loss"])


def counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl but those that their group, back at an earlier boundary after a
    recovery, trained again.
    """
    reached: dict[int, float] = {}
    kept = []
    for row in reversed(rows):
        if "boundary" in row:  # phones' rows
            group, boundary = int(row.get("group", 0)), float(row["boundary"])
            if boundary >= reached.get(group, inf):
                continue
            reached[group] = boundary
        kept.append(row)
    return kept[::-1]


def by_epoch(rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """Return the training loss of every epoch, over all groups, from counted rows of phones or rounds of a
    simulation.
    """
    trained: dict[int, list[tuple[int, float]]] = {}
    before = 0.0
    for row in rows:
        if row.get("loss") is None:
            continue
        if "rows" in row:
            weight, _ = _reported(row)
        else:  # a simulation's samples are those of the run so far
            weight, before = int(float(row.get("samples", before + 1)) - before), float(row.get("samples", 0))
        trained.setdefault(int(row.get("epoch", 0)), []).append((max(weight, 1), float(row["loss"])))
    means = ((epoch, _mean(found)) for epoch, found in trained.items())
    return {epoch: mean for epoch, mean in means if mean is not None}


def _mean(found: Iterable[tuple[int, float]]) -> float | None:
    found = list(found)
    samples = sum(rows for rows, _ in found)
    return sum(rows * loss for rows, loss in found) / samples if samples else None
