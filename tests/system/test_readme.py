"""README's first run does as it says: a newcomer sees a network sliced, trained and told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.system
@pytest.mark.long
def test_the_first_run_of_the_readme(tmp_path: Path, home: Path) -> None:
    section = README.read_text().partition("## A first run")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if not line.startswith("source ")]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = "\n".join(["set -e", "trap 'crowdlearn phones down' EXIT", *lines])
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert len(plan["pieces"]) == 3
    assert all(piece["macs"] <= 18_000 for piece in plan["pieces"])
    drawing = (tmp_path / "plan.svg").read_text()
    assert all(f"piece {number}" in drawing for number in range(3))
    assert (tmp_path / "runs/digits/report.html").exists()
    assert (tmp_path / "digits.onnx").exists()
