"""Inputs that are taken apart are the same inputs."""

import numpy as np
import pytest
from crowdlearn_host.simulation.learners.rare import apart
from crowdlearn_host.simulation.learners.sparse_inputs import ALIGNED, Columns, SparseInputs

RNG = np.random.default_rng(3)


def together(columns: Columns, samples: SparseInputs) -> np.ndarray:
    """The inputs, column by column and entry by entry."""
    inputs = np.zeros((len(samples), len(columns.order)), np.float32)
    inputs[:, columns.order[: columns.count]] = samples.common
    for row, (start, stop) in enumerate(zip(samples.starts, samples.starts[1:], strict=False)):
        for column, value in zip(samples.columns[start:stop], samples.values[start:stop], strict=True):
            assert value != 0
            inputs[row, columns.order[column]] = value
    return inputs


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_nothing_is_lost_or_added(share: float) -> None:
    inputs = RNG.standard_normal((40, 64)).astype(np.float32)
    inputs[:, RNG.permutation(64)[:30]] *= RNG.random((40, 30)) < share
    inputs[7] = 0
    columns = Columns.of(inputs)
    assert columns.all_common == (share == 0.6)
    assert columns.count % ALIGNED == 0
    np.testing.assert_array_equal(np.sort(columns.order), np.arange(64))
    np.testing.assert_array_equal(together(columns, apart(columns, inputs)), inputs)


def test_samples_unlike_those_by_which_columns_were_divided_are_taken_apart_too() -> None:
    looked_at = np.zeros((10, 64), np.float32)
    looked_at[:, ::4] = 1
    columns = Columns.of(looked_at)
    assert columns.count == 16
    inputs = RNG.standard_normal((5, 64)).astype(np.float32)
    np.testing.assert_array_equal(together(columns, apart(columns, inputs)), inputs)


def test_inputs_that_are_zero_throughout_have_no_common_column() -> None:
    inputs = np.zeros((3, 32), np.float32)
    columns = Columns.of(inputs)
    assert columns.count == 0
    np.testing.assert_array_equal(together(columns, apart(columns, inputs)), inputs)
