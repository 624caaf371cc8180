"""The benchmark of a training step gives every engine the same start, off the kinks."""

import sys

import numpy as np
import pytest
from crowdlearn_export.graph.memory_curves import USUAL
from crowdlearn_export.program.parity import relative_error
from torch import nn

from benchmarks.train_step.__main__ import main, measured
from benchmarks.train_step.cases import Case, built, write_case
from benchmarks.train_step.compare import EngineFailed, Worker, compare
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


def test_what_is_not_finite_is_no_small_error():
    exact = {"a": np.array([1.0, -4.0]), "b": np.array([2.0])}
    assert relative_error({"a": np.array([1.0, -4.0]), "b": np.array([np.nan])}, exact) == np.inf
    assert relative_error(exact, {"a": np.array([1.0, np.nan]), "b": np.array([2.0])}) == np.inf


@pytest.mark.parametrize("dying", ["eager", "crowdlearn"])
def test_an_engine_that_dies_while_it_is_timed_has_a_row_that_says_so(tmp_path, monkeypatch, dying):
    def ask(worker: Worker, question: str) -> dict[str, object]:
        path = worker._errors
        if question.startswith("run") and path.name.startswith(dying) and len(asked) > 2:
            raise EngineFailed("killed")
        asked.append(question)
        if question.startswith("gradients"):
            np.savez(question.removeprefix("gradients "), a=np.ones(1))
        return {"one_ms": 100.0, "ms": 1.0}

    asked: list[str] = []
    monkeypatch.setattr(Worker, "ask", ask)
    for name in ("weights.npz", "program.pte", "state.npz"):
        (tmp_path / name).touch()
    engines = {"eager": sys.executable, "crowdlearn": sys.executable}
    rows = compare(Case("mlp", 1, 1), engines, tmp_path, {"a": np.ones(1)}, rounds=3)
    failed = {row["engine"]: row.get("failed", "") for row in rows}
    assert failed[dying] == "killed"
    assert ("eager failed" in failed["crowdlearn"]) is (dying == "eager")
    assert all("ms" in row for row in rows if "failed" not in row)


def test_every_ratio_needs_eager(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train_step", "--quick", "--without", "eager"])
    with pytest.raises(SystemExit):
        main()
    assert "--without eager" in capsys.readouterr().err


def test_an_engine_is_left_out_without_peers_too(tmp_path):
    program = {"pte": b"", "state": {}, "facts": {}, "products": []}
    case = Case("mlp", 1, 1)
    without = ["eager", "torch_compile", "crowdlearn"]
    rows = measured(case, {USUAL: program}, None, tmp_path / "case", without=without)
    assert rows == []
