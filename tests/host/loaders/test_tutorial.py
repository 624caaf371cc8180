"""The tutorial, as a reader types it, but for the phones: from a table to a simulated run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from crowdlearn_host.errors import ConfigError
from crowdlearn_host.runs.data import load_split

ROOT = Path(__file__).parents[3]


def test_the_tutorial_from_a_table_to_a_model(tmp_path: Path) -> None:
    page = (ROOT / "docs/tutorial.md").read_text("utf-8")
    for name, content in re.findall(r"```\w+\n# ([\w.]+)\n(.*?)```", page, re.S):
        (tmp_path / name).write_text(content)
    assert {path.name for path in tmp_path.iterdir()} == {"make_table.py", "wine.py", "wine.toml"}
    (convert,) = re.findall(r"^crowdlearn (convert .*)$", page, re.M)
    own = [sys.executable, "-c", "from crowdlearn_host.cli import main; main()"]
    said = []
    for words in (
        [sys.executable, "make_table.py"],
        [*own, *convert.split()],
        [*own, "train", "wine.toml", "--check"],
        [*own, "simulate", "wine.toml", "--json", "--processes", "1"],
    ):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert "142 train, 36 test samples [13], 3 classes" in said[1]
    assert json.loads(said[3])["rounds"][-1]["accuracy"] > 0.9


def test_a_table_in_place_of_a_data_folder_is_told_how_to_convert(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,a\n")
    for place in (tmp_path / "t.csv", tmp_path):
        with pytest.raises(ConfigError, match="crowdlearn convert makes a data folder of it"):
            load_split(str(place), "train")
