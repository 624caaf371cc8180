"""Bytes of sharing in a simulated run, by secure sums and as today, at the accuracy that each reaches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from crowdlearn.simulation import (
    InProcess,
    SimulationConfig,
    load_split,
    prepare,
    run,
)

GROUPS, EPOCHS = 8, 10


def rows() -> Iterator[dict[str, Any]]:
    """Yield a row for plain and for secure sharing of all weights, 8 groups of two devices on the digits."""
    data, test = (load_split("digits", split) for split in ("train", "test"))
    parts = np.array_split(np.random.default_rng(0).permutation(len(data)), 2 * GROUPS)
    before = 0
    for secure in (False, True):
        config = SimulationConfig.model_validate(
            {
                "model": "mlp:64-32-10",
                "devices": 2 * GROUPS,
                "group": 2,
                "training": {"epochs": EPOCHS, "learning_rate": 0.2},
                "sharing": {"theta": 1.0, "secure": secure},
            }
        )
        setting = prepare(config, data, test, parts)
        with InProcess(setting.workload) as workers:
            records = run(setting, workers).records
        spent = sum(record.bytes["sharing"] for record in records)
        before = before or spent
        yield {
            "by": "secure run" if secure else "plain run",
            "groups": GROUPS,
            "bytes": spent,
            "times_plain": spent / before,
            "accuracy": records[-1].accuracy,
        }
