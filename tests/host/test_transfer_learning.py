"""The example of transfer learning in docs/training.md, as a user tries it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from crowdlearn_export.tracing.trace import neuron_graph
from crowdlearn_host.cli import build
from crowdlearn_host.models.named import build_model
from typer.testing import CliRunner

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def test_the_example_runs_and_the_doctor_tells_what_freezing_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(# transfer\.py.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "transfer.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    command = ["doctor", "transfer.py:build", "--shape", "1x8x8"]
    said = CliRunner().invoke(build(command[:1]), command, catch_exceptions=False).output
    assert re.search(r"0\.0 .*Conv2d .*sliced; frozen ", said)
    assert re.search(r"0\.1 .*BatchNorm2d .*sliced; frozen, statistics fixed ", said)
    graph = neuron_graph(build_model("transfer.py:build", 0), torch.zeros(2, 1, 8, 8))
    head, conv = 72 * 10, 8 * 9 * 36
    assert graph.training_macs == conv + 2 * head
    assert f"{head + 10} of {head + 10 + 8 * 9 + 3 * 8} weights learn" in said
    assert f"a sample takes 0.00403 of 0.00734 million MAC, and errors of 10 of {8 * 36 + 10} sums" in said
    assert "gradients: passed" in said
