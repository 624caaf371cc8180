"""The benchmark of a training step gives every engine the same start, off the kinks."""

import sys

import numpy as np
import pytest
from torch import nn

from benchmarks.train_step.cases import Case, built, relative_error, write_case
from benchmarks.train_step.compare import compare
from benchmarks.train_step.engine import every
from benchmarks.train_step.layers import Untold, described


def test_float32_gradients_of_the_batch_are_exact_up_to_rounding(tmp_path):
    exact = write_case(Case("cnn", 8, 1), tmp_path)
    rows = compare(Case("cnn", 8, 1), {"eager": sys.executable}, tmp_path, exact, rounds=2)
    assert rows[0]["engine"] == "eager"
    assert rows[0]["ratio_to_eager"] == 1
    assert rows[0]["grad_error"] <= 1e-5


def test_an_engine_that_fails_has_a_row_that_says_why(tmp_path):
    exact = write_case(Case("mlp", 1, 1), tmp_path)
    engines = {"crowdlearn": sys.executable}  # its program has not been written
    rows = compare(Case("mlp", 1, 1), {"litert": sys.executable, **engines}, tmp_path, exact, rounds=1)
    assert all(row["failed"] for row in rows)


def test_a_dense_layer_knows_the_channels_that_were_flattened():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))
    assert [layer.get("channels") for layer in described(model)] == [None, None, None, 5]


@pytest.mark.parametrize("model", ["cnn", "paper_mlp", "resnet20", "mobilenet"])
def test_a_network_is_told_with_every_parameter_once(model):
    told = [
        layer[kind]
        for layer in every(described(built(model)))
        for kind in ("weight", "bias")
        if kind in layer
    ]
    assert sorted(told) == sorted(name for name, _ in built(model).named_parameters())


def test_a_network_that_cannot_be_told_is_refused_by_name():
    with pytest.raises(Untold, match="it is a Transformer"):
        described(built("transformer"))


def test_the_error_is_relative_to_the_largest_gradient():
    exact = {"a": np.array([1.0, -4.0]), "b": np.array([2.0])}
    assert relative_error({"a": np.array([1.0, -4.0]), "b": np.array([2.4])}, exact) == pytest.approx(0.1)
