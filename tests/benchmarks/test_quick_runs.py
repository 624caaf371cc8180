"""Every benchmark runs as its page says, quickly, and writes its rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
QUICK = sorted(
    path.parent.name if path.name == "__main__.py" else path.stem
    for path in (*FOLDER.glob("*.py"), *FOLDER.glob("*/__main__.py"))
    if "__main__" in (text := path.read_text("utf-8")) + path.name
    and any(sign in text for sign in ('"--quick"', "quick: Annotated", "arguments_of("))
    and path.stem != "seeds"
)
NEEDED = {"fuzz": "atheris"}
"""Packages that a benchmark needs beside the tests'."""


def test_benchmarks_with_a_quick_run_are_found() -> None:
    assert {"adb", "chaos", "privacy", "relay", "scale", "simulation", "staleness", "zoo"} <= {*QUICK}


@pytest.mark.nightly
@pytest.mark.parametrize("name", QUICK)
def test_a_quick_run_writes_rows(name: str, tmp_path: Path) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    file = tmp_path / "rows.json"
    words = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
    run = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    rows = json.loads(file.read_text())["rows"]
    assert rows
    assert all(isinstance(row, dict) for row in rows)
