"""Benchmarks asked for what there is not, or for a check and no result, say so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gradients import main as gradients
from benchmarks.memory.__main__ import main as memory
from benchmarks.paper.__main__ import main as paper
from benchmarks.planner import main as planner
from benchmarks.train_step.__main__ import main as train_step


def test_an_unknown_network_is_an_error_that_lists_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"typo: there is .*MobileNetV2"):
        planner(networks="typo")
    with pytest.raises(SystemExit, match=r"typo: there is .*dense"):
        memory(networks=["typo"], quick=True)
    monkeypatch.setattr(sys, "argv", ["train_step", "--models", "typo"])
    with pytest.raises(SystemExit, match=r"typo: there is .*cnn"):
        train_step()
    monkeypatch.setattr(sys, "argv", ["gradients", "--models", "typo"])
    with pytest.raises(SystemExit, match=r"typo: there is .*resnet20"):
        gradients()


def test_a_choice_that_leaves_nothing_to_measure_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_step", "--quick", "--models", "mlp"])
    with pytest.raises(SystemExit):
        train_step()
    assert "nothing is left to measure" in capsys.readouterr().err


def test_tables_of_a_quick_run_are_no_result_in_the_file_either(tmp_path: Path) -> None:
    told = tmp_path / "tables.md"
    options: dict[str, Any] = {
        "data": None,
        "cifar": None,
        "only": "",
        "seeds": 1,
        "epochs": 0,
        "cores": 1,
        "kept": False,
    }
    paper("load", **options, quick=True, runs=tmp_path, json_file=None, markdown=told)
    headings = [line for line in told.read_text().splitlines() if line.startswith("## ")]
    assert headings
    assert all(heading.endswith("(quick: no result)") for heading in headings)
