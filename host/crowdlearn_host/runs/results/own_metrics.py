"""Metrics that are a user's own functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from crowdlearn_device.protocol.targets import TargetSpec
from crowdlearn_export.user_code import imported

from crowdlearn_host.errors import ConfigError

from .metrics import METRICS, Scores, Targets

Function = Callable[[Scores, Targets], float]
ROWS = 8
"""Samples on which a function is tried."""


def own_metrics(references: Sequence[str]) -> dict[str, Function]:
    """Return the functions `file.py:name` or `package.module:name`, by their names. Each takes scores float32
    [N, outputs] and targets [N, ...], and gives a number.

    Raises ConfigError if one cannot be imported, or has the name of another metric.
    """
    taken = {"loss", *(metric.name for metric in METRICS)}
    found: dict[str, Function] = {}
    for reference in references:
        name = reference.rpartition(":")[2]
        if name in taken or name in found:
            raise ConfigError(f"metrics.own: there is a metric {name!r} already; call {reference} otherwise")
        found[name] = _imported(reference)
    return found


def computed(own: Sequence[str], scores: Scores, targets: Targets) -> dict[str, float]:
    """Return a user's own metrics of scores float32 [N, outputs] and targets [N, ...]. Raises ConfigError if
    one fails, or gives no number.
    """
    found = {}
    for name, function in own_metrics(own).items():
        try:
            found[name] = float(function(scores, targets))
        except Exception as error:  # whatever a user's function raises
            raise ConfigError(
                f"metrics.own: {name} fails on scores {list(scores.shape)} and targets "
                f"{list(targets.shape)}: {error}; mend it"
            ) from error
    return found


def check_own(own: Sequence[str], spec: TargetSpec, outputs: int) -> None:
    """Raise ConfigError if a user's own metric fails on random scores of so many outputs."""
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(ROWS, outputs)).astype(np.float32)
    targets = draw.random((ROWS, outputs), np.float32)
    computed(own, scores, draw.integers(0, outputs, ROWS) if spec.are_classes else targets)


def _imported(reference: str) -> Function:
    try:
        function: Function = imported(reference)
    except Exception as error:  # importing runs a user's code
        raise ConfigError(
            f"metrics.own: {reference!r} cannot be imported ({error}); name functions as file.py:name"
        ) from error
    return function
