"""The choice of a checkpoint by the validation split."""

from __future__ import annotations

from typing import Any

from crowdlearn_host.common.files import read_lines
from crowdlearn_host.coordinator.storage.run_folder import RunFolder
from crowdlearn_host.runs.results.evaluation import Evaluation
from crowdlearn_host.spec.validation import ValidationSection


def figure(evaluated: Evaluation, wanted: ValidationSection) -> float:
    """Return the figure of an evaluation on the validation split that chooses."""
    return evaluated.loss if wanted.metric == "loss" else evaluated.metrics[wanted.metric]


class Choice:
    """The figures of a run so far: `values` by epoch, counted from 0."""

    def __init__(self, wanted: ValidationSection, folder: RunFolder) -> None:
        """Begin with what the run in `folder` has told before."""
        self.wanted = wanted
        self.values: dict[int, float] = {}
        for event in read_lines(folder.path / "events.jsonl"):
            metrics = {**(event.get("validation_metrics") or {}), "loss": event.get("validation_loss")}
            if event.get("event") == "evaluated" and isinstance(metrics.get(wanted.metric), float):
                self.values[int(event["epoch"])] = metrics[wanted.metric]

    @property
    def best(self) -> int:
        """Return the epoch that is best, from 0; -1 before the first."""
        epochs = sorted(self.values)
        return epochs[self.wanted.best([self.values[epoch] for epoch in epochs])] if epochs else -1

    @property
    def ended(self) -> bool:
        """Return True once the last epochs were no better."""
        return self.wanted.ended([self.values[epoch] for epoch in sorted(self.values)]) is not None

    @property
    def fields(self) -> dict[str, Any]:
        """Return what an event says: the best epoch, and the metric after it."""
        return {"epoch": self.best, "metric": self.wanted.metric, "value": self.values[self.best]}
