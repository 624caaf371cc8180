"""The validation split: samples by which a run chooses its best checkpoint, and when to end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from crowdlearn_host.common.toml_files import Section

LOWER = frozenset({"loss", "perplexity", "mae", "rmse"})
"""Figures that are the better the lower."""


class ValidationSection(Section):
    """Samples for neither training nor tests: `share` of the training samples on this computer, drawn by the
    seed; 0 for the data folder's validation.npz.

    After every epoch the global model is evaluated on them. The run ends with the weights of the epoch whose
    `metric` was best, the first of equal ones. With `patience` training ends once so many epochs in a row
    were no better; a group that is in the middle of an epoch ends it first.
    """

    share: float = Field(default=0.0, ge=0, le=0.5)
    metric: Literal[
        "loss", "accuracy", "balanced_accuracy", "f1", "auc", "r2", "perplexity", "mae", "rmse"
    ] = "loss"
    patience: int = Field(default=0, ge=0)

    def rank(self, value: float) -> float:
        """Return a number that is the higher, the better the metric's `value` is."""
        rank = -value if self.metric in LOWER else value
        return rank if math.isfinite(rank) else -math.inf

    def best(self, values: Sequence[float]) -> int:
        """Return the epoch that is best, from 0, given the metric after each; those behind the end are left
        out.
        """
        ranks = [self.rank(value) for value in values[: self.ended(values)]]
        return ranks.index(max(ranks))

    def ended(self, values: Sequence[float]) -> int | None:
        """Return the number of epochs after which training ends early; None if it goes on."""
        best, at = -math.inf, -1
        for epoch, value in enumerate(values):
            rank = self.rank(value)
            if at < 0 or rank > best:
                best, at = rank, epoch
            elif self.patience and epoch - at >= self.patience:
                return epoch + 1
        return None
