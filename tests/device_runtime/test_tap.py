"""A tap's records come back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import StateError
from crowdlearn_device.privacy.tap import FileTap, Record, read_records

RECORDS = [
    Record("sums", np.arange(6, dtype=np.float32).reshape(2, 3), 1, 0, 4, 2, 0, 3, 1),
    Record("fed", np.array([5, 2, 9]), 1, 0, 4, 2),
    Record("weights", np.ones((2, 1), np.float32), 1, 0, 0, piece=2, name="0.weight"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tap = FileTap(tmp_path / "made" / "tap")
    for record in RECORDS:
        tap.record(record)
    return tmp_path / "made" / "tap"


def test_records_come_back_in_order_with_their_places(path: Path) -> None:
    for written, read in zip(RECORDS, read_records(path), strict=True):
        np.testing.assert_array_equal(written.values, read.values)
        assert written.values.dtype == read.values.dtype
        assert repr(written) == repr(read)


@pytest.mark.parametrize("cut", [1, 3, 20, 60])
def test_a_damaged_file_is_refused(path: Path, cut: int) -> None:
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(StateError, match="record the run again"):
        list(read_records(path))


def test_bytes_that_are_no_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tap").write_bytes(b"\xff" * 100)
    with pytest.raises(StateError):
        list(read_records(tmp_path / "tap"))
