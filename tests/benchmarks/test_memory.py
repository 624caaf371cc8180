"""The planner foretells how much a device's process grows."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_device.optimizers.registry import Kind

from benchmarks.memory.cases import CASES
from benchmarks.memory.compare import compare

HELD = (("dense, one piece", "sgd"), ("dense, one piece", "adam"), ("residual", "adamw"))
"""A whole network as one program, and pieces of one with maps. The benchmark measures the others, too."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What layers need, which the cuts of one network have in common."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.system
@pytest.mark.parametrize(("network", "optimizer"), HELD)
def test_predicted_memory_is_within_15_percent_of_what_every_process_grew_by(
    network: str, optimizer: Kind, cache: Path, tmp_path: Path
) -> None:
    rows = compare(network, "int8", tmp_path / "run", cache, optimizer=optimizer)
    assert len(rows) == len(CASES[network].shares)
    for row in rows:
        assert abs(row["off_percent"]) <= 15, row
    shuffled, foretold = rows[0]["shuffle_mb"], max(row["predicted_mb"] for row in rows)
    assert shuffled <= 1.15 * foretold, "pieces that change hands take more than training"
