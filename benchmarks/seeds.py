"""Runs of one setting over several seeds, and their errors."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.runs import Finished


def arguments_of(
    argv: Sequence[str] | None, description: str | None, name: str, seeds: int
) -> argparse.Namespace:
    """What a benchmark of runs over seeds takes; `name` is that of the folder for its runs."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, help="folder with MNIST's four files; without, data are drawn")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--quick", action="store_true", help="2 epochs of few samples: a check, no result")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="keeps finished runs")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    return parser.parse_args(argv)


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
