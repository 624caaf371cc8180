"""`crowdlearn plan` of a run's description: that is planned for, unless an option says otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from crowdlearn_host.cli import build
from typer.testing import CliRunner

RUN = """
model = "mlp:64-24-10"
data = "digits"

[training]
batch = 48
momentum = 0.0
wire = "float16"
staleness = 1

[sharing]
theta = 0.5
"""
FLEET = """
[[class]]
name = "phone"
count = 3
samples = 100
macs_per_second = 1e9
max_macs = 5000
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.toml").write_text(RUN)
    (tmp_path / "fleet.toml").write_text(FLEET)
    return tmp_path


def planned(folder: Path, *options: str) -> dict[str, Any]:
    words = ["plan", str(folder / "run.toml"), "--fleet", str(folder / "fleet.toml"), "--no-baselines"]
    result = CliRunner().invoke(build(["plan"]), [*words, "--seconds", "2", "--json", *options])
    assert result.exit_code == 0, result.output
    training: dict[str, Any] = json.loads(result.stdout)["training"]
    return training


def test_the_description_is_planned_for(folder: Path) -> None:
    training = planned(folder)
    assert (training["batch"], training["momentum"], training["staleness"]) == (48, False, 1)
    assert (training["theta"], training["wire"]["dtype_bytes"]) == (0.5, 2)


def test_an_option_goes_before_the_description(folder: Path) -> None:
    training = planned(folder, "--batch", "32", "--wire", "int8")
    assert (training["batch"], training["wire"]["dtype_bytes"], training["theta"]) == (32, 1, 0.5)
