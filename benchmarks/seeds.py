"""Errors of one setting over several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .paper.runs import Finished


def errors(finished: Finished) -> list[float]:
    """Test error in per cent, by round."""
    return [100 - 100 * float(record.accuracy or 0) for record in finished.records]


def over_seeds(runs: Sequence[Finished], plain: Sequence[Finished]) -> dict[str, Any]:
    """Errors in per cent of a run for each seed; `difference` is over what the same seeds gave in `plain`."""
    found = [errors(run) for run in runs]
    last = [run[-1] for run in found]
    over = [end - errors(beside)[-1] for end, beside in zip(last, plain, strict=True)]
    return {
        "error_by_epoch": [statistics.mean(each) for each in zip(*found, strict=True)],
        "error_of_seeds": last,
        "error": statistics.mean(last),
        "spread": _spread(last),
        "difference": statistics.mean(over),
        "spread_of_difference": _spread(over),
    }


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
