"""The digits are scikit-learn's, read without importing it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from crowdlearn_host.runs.data import load_split
from sklearn.datasets import load_digits


def test_digits_are_those_of_scikit_learn() -> None:
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    splits = [load_split("digits", "train"), load_split("digits", "test")]
    np.testing.assert_array_equal(
        np.concatenate([split.inputs for split in splits]), (bunch.data[order] / 16).astype(np.float32)
    )
    labels = np.concatenate([split.labels for split in splits])
    np.testing.assert_array_equal(labels, bunch.target[order])
    assert labels.dtype == np.int64


def test_reading_them_imports_nothing_of_it() -> None:
    read = "import sys; from crowdlearn_host.runs.data import load_split; load_split('digits', 'test')"
    said = subprocess.run(
        [sys.executable, "-c", f"{read}; print('sklearn' in sys.modules)"], capture_output=True, check=True
    )
    assert said.stdout.split() == [b"False"]
