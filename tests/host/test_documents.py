"""With --json, a command's standard output is one document, whatever libraries and models print."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from crowdlearn_export.program.deploy import export_onnx
from crowdlearn_host import emulator as phones
from crowdlearn_host.cli import COMMANDS, main
from crowdlearn_host.cli.console.schemas import DOCUMENTS, keys, schema
from crowdlearn_host.common.files import read_lines
from crowdlearn_host.models.named import build_model

NOISY = """
import ctypes, os
from torch import nn

def net():
    print("printed")
    os.write(1, b"written")
    ctypes.CDLL(None).printf(b"left in C's buffer")
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
"""
FLEET = """
[[class]]
name = "hub"
count = 1
samples = 30
macs_per_second = 1e9

[[class]]
name = "low"
count = 3
samples = 10
macs_per_second = 1e8
max_macs = 1600
"""
TRAIN = """
model = "net.py:net"
data = "digits"
group = { pieces = 2 }
training = { epochs = 1, batch = 64, kernels = "by_size" }
fleet = { virtual = 2 }
"""

Run = Callable[[str], Any]


@pytest.fixture
def run(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    """Run a command with --json as a shell would, and read all of its standard output as one document."""
    monkeypatch.chdir(tmp_path)
    for name, text in {"net.py": NOISY, "fleet.toml": FLEET, "my.toml": TRAIN}.items():
        (tmp_path / name).write_text(text)

    def run(command: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["crowdlearn", *command.split(), "--json"])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        os.write(1, b"")
        out = capfd.readouterr().out
        assert not exit.value.code
        told = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        words = command.split()
        name = " ".join(words[:2]) if words[0] == "phones" else words[0]
        jsonschema.validate(told, schema(name), jsonschema.Draft202012Validator)
        return told

    return run


def test_commands_without_a_run(run: Run, tmp_path: Path) -> None:
    assert run("init new.toml") == {"file": "new.toml"}
    assert run("phones list") == []
    assert run("devices") == []
    assert run("phones down") == []
    (token,) = run("enrol phone-1")
    assert " && crowdlearn-device join wss://HOST:PORT --name=phone-1" in token["command"]
    assert run("doctor net.py:net --shape 64")["slices"] == ""
    export_onnx(build_model("mlp:8-6-4", 0), torch.randn(2, 8), tmp_path / "net.onnx")
    told = run("import net.onnx --to out.py")
    assert told["model"] == f"{tmp_path / 'out.py'}:build"
    assert "folded 1 batch norms" in told["notes"][0]


def test_a_plan_that_partitioners_are_compared_with(run: Run) -> None:
    """METIS complains on standard output when a partition is uneven."""
    plan = run("plan net.py:net --shape 64 --fleet fleet.toml --group-size 4 --seconds 2")
    assert len(plan["pieces"]) > 1


@pytest.mark.system
def test_a_run_from_training_to_its_report(run: Run, tmp_path: Path) -> None:
    told = run("train my.toml")
    assert told["run"] == "runs/run"
    evaluated = run("evaluate runs/run")
    assert evaluated["accuracy"] == told["test_accuracy"]
    assert sum(each["samples"] for each in evaluated["classes"]) == evaluated["samples"]
    exported = run("export-model runs/run --onnx net.onnx")
    assert exported["onnx"]["file"] == "net.onnx"
    assert run("report runs/run") == {"report": "runs/run/report.html", "damaged": []}
    (epoch,) = (e for e in read_lines(tmp_path / "runs/run/events.jsonl") if e["event"] == "evaluated")
    assert epoch["training_loss"] == pytest.approx(told["training_loss"])


@pytest.mark.system
def test_phones_and_what_is_measured_of_them(run: Run, home: Path) -> None:
    try:
        (started,) = run("phones up --count 1")
        assert [phone["name"] for phone in run("phones list")] == [started["name"]]
        assert [device["serial"] for device in run("devices")] == [started["serial"]]
        measured = run("profile --out measured.toml")
        assert measured["missing"] == []
        assert measured["devices"][0]["macs_per_second"] > 0
        told = run("measure --quick --no-here --model mlp:64-32-16-10 --csv m.csv --plot m.svg")
        assert told["missing"] == {}
        steps = [row for row in told["rows"] if not row["stage"]]
        assert {row["program"] for row in steps} == {"whole network", "dominator of 3", "follower of 3"}
        assert all(row["provenance"] == "modelled" and row["joules"] for row in steps)
        assert Path("m.csv").read_text().count("\n") == 1 + len(told["rows"])
        assert "modelled" in Path("m.svg").read_text()
    finally:
        phones.down(home)


def test_a_simulation(run: Run, tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        np.savez(tmp_path / f"{split}.npz", inputs=rng.random((60, 64)), labels=rng.integers(0, 10, 60))
    (tmp_path / "crowd.toml").write_text(
        'model = "net.py:net"\ndevices = 6\ngroup = 3\n[training]\nepochs = 2\nbatch = 5\n'
    )
    told = run("simulate crowd.toml --data . --run crowd --processes 1")
    assert [each["epoch"] for each in told["rounds"]] == [0, 1]


def test_the_page_of_commands_tells_the_keys_of_every_document() -> None:
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    told = {
        name: re.findall("`(.*?)`", rest) for name, rest in re.findall(r"^\| `(.*?)` \| (.*) \|$", page, re.M)
    }
    for command in DOCUMENTS:
        assert told[command] == list(keys(command))


def test_every_command_that_takes_json_has_a_schema() -> None:
    with_json = {
        name
        for name, place in COMMANDS.items()
        for module, _, attribute in [place.partition(":")]
        for command in [getattr(import_module(f"crowdlearn_host.cli.{module}"), attribute)]
        if callable(command) and "as_json" in inspect.signature(command).parameters
    }
    assert with_json <= set(DOCUMENTS)


def test_schemas_are_one_document(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for words in (["schema"], ["schema", "phones", "list"]):
        monkeypatch.setattr(sys, "argv", ["crowdlearn", *words])
        with pytest.raises(SystemExit) as exit:
            main()
        assert not exit.value.code
        told = json.loads(capfd.readouterr().out)
        assert (set(told) == set(DOCUMENTS)) if len(words) == 1 else told["$schema"]


def test_an_error_is_no_document(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["crowdlearn", "evaluate", "nowhere", "--json"])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.startswith("crowdlearn: nowhere holds no run")
