"""Paths in a configuration file are relative to it, those on the command line to the working directory; a run
goes on from anywhere, with what it began with.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.errors import ConfigError, RunError, TrainingError
from crowdlearn_host.models.named import build_model
from crowdlearn_host.planner.balanced import balanced
from crowdlearn_host.planner.plan import save_plan
from crowdlearn_host.runs.prepare import Prepared
from crowdlearn_host.simulation.run_folder import RunFolder
from safetensors.torch import save_file
from typer.testing import CliRunner

MODEL = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
"""
PHONES = """
model = "net.py:net"
data = "data"
group = { plan = "plan.json" }
training = { epochs = 1, batch = 8, kernels = "by_size" }
fleet = { phones = ["one", "two"] }
"""
CROWD = """
model = "net.py:net"
plan = "plan.json"
devices = 4
group = 2
training = { epochs = 2, batch = 8 }
"""
SIMULATE = ("simulate", "../mine/crowd.toml", "--data", "../mine/data", "--run", "../run", "--processes", "1")


@pytest.fixture
def mine(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder; the working directory is another, where everything has the same name and is wrong."""
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("mine", "elsewhere", "third"):
        (tmp_path / name / "data").mkdir(parents=True)
    mine, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    (mine / "net.py").write_text(MODEL)
    (elsewhere / "net.py").write_text("raise ImportError('the wrong model')\n")
    give_plan(mine, pieces=2)
    (elsewhere / "plan.json").write_text("the wrong plan")
    for split, samples in (("train", 64), ("test", 32)):
        give_data(mine / "data" / f"{split}.npz", samples)
        (elsewhere / "data" / f"{split}.npz").write_bytes(b"the wrong data")
    (mine / "phones.toml").write_text(PHONES)
    (mine / "crowd.toml").write_text(CROWD)
    monkeypatch.chdir(elsewhere)
    return mine


def give_plan(folder: Path, pieces: int) -> None:
    graph = neuron_graph(build_model(f"{folder}/net.py:net", 0), torch.zeros(2, 6), "net")
    save_plan(balanced(graph, pieces), folder / "plan.json")


def give_data(path: Path, samples: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((samples, 6)).astype(np.float32)
    np.savez(path, inputs=inputs, labels=np.arange(samples) % 4)


def crowdlearn(*arguments: str) -> str:
    result = CliRunner().invoke(build(arguments[:1]), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def other_training_data(mine: Path) -> None:
    give_data(mine / "data" / "train.npz", 64, seed=1)


def other_test_data(mine: Path) -> None:
    give_data(mine / "data" / "test.npz", 32, seed=1)


def other_model(mine: Path) -> None:
    (mine / "net.py").write_text(MODEL.replace("ReLU", "Tanh"))


def other_plan(mine: Path) -> None:
    give_plan(mine, pieces=1)


CHANGES = [
    (other_training_data, "training data"),
    (other_test_data, "test data"),
    (other_model, "model"),
    (other_plan, "plan"),
]
Change = Callable[[Path], None]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Prepared]:
    """What would be trained; nothing is."""
    prepared: list[Prepared] = []

    async def seen(run: Prepared, *_: object) -> None:
        prepared.append(run)

    async def answered(*_: object) -> None:
        pass

    monkeypatch.setattr("crowdlearn_host.runs.checks.survey.survey", answered)
    monkeypatch.setattr("crowdlearn_host.runs.train.train", seen)
    return prepared


def test_a_run_of_phones_starts_and_goes_on_from_anywhere(
    mine: Path, trained: list[Prepared], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    crowdlearn("train", "../mine/phones.toml", "--run", "../run")
    monkeypatch.chdir("../third")
    shutil.rmtree("../elsewhere")
    crowdlearn("train", "--resume", "../run")
    for prepared in trained:
        assert prepared.train is not None
        assert len(prepared.train) == 64
        assert len(prepared.plan.pieces) == 2
    run = mine.parent / "run"
    save_file(build_model(f"{mine}/net.py:net", 0).state_dict(), run / "model.safetensors")
    monkeypatch.chdir(run)
    assert json.loads(crowdlearn("evaluate", ".", "--json"))["samples"] == 32
    crowdlearn("export-model", "../run", "--onnx", "../third/net.onnx")
    crowdlearn("report", "../run")
    assert (mine.parent / "third" / "net.onnx").exists()
    assert (run / "report.html").exists()


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_run_of_phones_does_not_go_on_with_other_contents(
    mine: Path, trained: list[Prepared], change: Change, what: str
) -> None:
    crowdlearn("train", "../mine/phones.toml", "--run", "../run")
    change(mine)
    with pytest.raises(RunError, match=rf"\.\./run began with other {what}: .*/mine/.* new run in another"):
        crowdlearn("train", "--resume", "../run")
    assert len(trained) == 1


def test_a_run_whose_data_moved_is_told_so_in_its_configuration(mine: Path, trained: list[Prepared]) -> None:
    crowdlearn("train", "../mine/phones.toml", "--run", "../run")
    (mine / "data").rename(mine / "moved")
    with pytest.raises(ConfigError, match=r"/mine/data is not a folder"):
        crowdlearn("train", "--resume", "../run")
    kept = mine.parent / "run" / "config.toml"
    kept.write_text(kept.read_text().replace('"data"', '"moved"'))
    crowdlearn("train", "--resume", "../run")
    assert len(trained) == 2


def test_a_run_that_does_not_tell_what_it_was_given_is_refused(mine: Path, trained: list[Prepared]) -> None:
    crowdlearn("train", "../mine/phones.toml", "--run", "../run")
    inputs = mine.parent / "run" / "inputs.json"
    for content in (b"", b"{}", b"\xff", b"[" * 5000, inputs.read_bytes()[:-9]):
        inputs.write_bytes(content)
        with pytest.raises(RunError, match=r"run/inputs.json cannot be read .*new run in another folder"):
            crowdlearn("train", "--resume", "../run")
    inputs.unlink()
    with pytest.raises(RunError, match=r"run/inputs.json cannot be read \(No such file.*another version"):
        crowdlearn("train", "--resume", "../run")


def test_a_simulation_starts_and_goes_on_from_anywhere(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crowdlearn(*SIMULATE)
    monkeypatch.chdir("../third")
    crowdlearn(*SIMULATE)
    monkeypatch.chdir("../run")
    assert json.loads(crowdlearn("evaluate", ".", "--json"))["samples"] == 32
    crowdlearn("export-model", ".", "--onnx", "../third/net.onnx")
    crowdlearn("report", ".")
    assert (mine.parent / "third" / "net.onnx").exists()


def test_a_simulation_goes_on_where_everything_moved_together(mine: Path) -> None:
    crowdlearn(*SIMULATE)
    mine.rename(mine.parent / "moved")
    crowdlearn(*(word.replace("mine", "moved") for word in SIMULATE))
    assert json.loads(crowdlearn("evaluate", "../run", "--json"))["samples"] == 32


@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_simulation_does_not_go_on_with_other_contents(mine: Path, change: Change, what: str) -> None:
    crowdlearn(*SIMULATE)
    change(mine)
    with pytest.raises(RunError, match=rf"\.\./run began with other {what}: .*/mine/.* new run in another"):
        crowdlearn(*SIMULATE)


@pytest.mark.parametrize(("change", "what"), [CHANGES[1], CHANGES[2]])
def test_a_run_is_not_evaluated_as_if_its_own_on_other_contents(
    mine: Path, change: Change, what: str
) -> None:
    crowdlearn(*SIMULATE)
    change(mine)
    with pytest.raises(RunError, match=f"began with other {what}"):
        crowdlearn("evaluate", "../run")
    other_training_data(mine)  # of which an evaluation takes nothing
    if what == "test data":
        assert "accuracy" in crowdlearn("evaluate", "../run", "--data", "../mine/data")


@pytest.mark.parametrize(("rounds", "told"), [(0, "has no finished round"), (1, "is not over")])
def test_a_simulation_without_a_model_is_told_as_such(
    mine: Path, rounds: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = RunFolder.keep

    def stop(folder: RunFolder, state) -> None:
        if len(state.records) > rounds:
            raise TrainingError("stopped")
        keep(folder, state)

    with monkeypatch.context() as patched, pytest.raises(TrainingError, match="stopped"):
        patched.setattr(RunFolder, "keep", stop)
        crowdlearn(*SIMULATE)
    for command in (("evaluate",), ("export-model", "--onnx", "net.onnx")):
        with pytest.raises(RunError, match=rf"{told}.*no model yet.*simulate CONFIG --data FOLDER --run"):
            crowdlearn(command[0], "../run", *command[1:])
    with pytest.raises(RunError, match=r"\.\./mine holds no run"):
        crowdlearn("evaluate", "../mine")


def test_models_on_the_command_line_are_from_the_working_directory(mine: Path) -> None:
    assert "slices" in crowdlearn("doctor", "../mine/net.py:net", "--shape", "6")
    with pytest.raises(ConfigError, match="the wrong model"):
        crowdlearn("doctor", "net.py:net", "--shape", "6")


def test_what_import_says_can_be_written_into_any_configuration(mine: Path) -> None:
    crowdlearn(*SIMULATE)
    crowdlearn("export-model", "../run", "--onnx", "net.onnx")
    told = crowdlearn("import", "net.onnx", "--to", "back.py")
    assert f'model = "{mine.parent}/elsewhere/back.py:build"' in told


def test_the_help_tells_the_rule() -> None:
    told = " ".join(CliRunner().invoke(build(), ["--help"]).stdout.split())
    assert "relative to that file" in told
    assert "working directory" in told
