"""Objects come back from files as they were, and the same memory is written once."""

from pathlib import Path

import numpy as np
from crowdlearn_host.simulation.mapped import ALIGNED, Packed, read


def test_arrays_come_back_as_they_were_whatever_their_order(tmp_path: Path) -> None:
    table = np.random.default_rng(0).random((10, 7), np.float32)
    given = {
        "rows": table,
        "columns": np.asfortranarray(table),
        "some": table[:, ::3],
        "none": np.zeros((0, 3)),
        "places": np.arange(5, dtype=np.int32),
        "number": 3.5,
    }
    path = tmp_path / "object"
    Packed(given).write(path)
    found = read(path)
    path.unlink()  # as whoever has read a result does
    assert given.keys() == found.keys()
    for name, value in given.items():
        np.testing.assert_array_equal(found[name], value)
    assert all(found[name].ctypes.data % ALIGNED == 0 for name in ("rows", "columns", "places"))


def test_the_same_memory_is_written_once(tmp_path: Path) -> None:
    table = np.ones((100, 8), np.float32)
    packed = Packed((table, table.reshape(-1), table + 1))
    assert packed.nbytes == 2 * table.nbytes
    packed.write(tmp_path / "object")
    found = read(tmp_path / "object")
    assert found[1].shape == (800,)
    found[0][0, 0] = 5
    assert found[1][0] == 5
    assert read(tmp_path / "object")[0][0, 0] == 1
