"""Every example does as its page says, on real data, and learns."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from crowdlearn.testing import virtual_phones

EXAMPLES = Path(__file__).parents[2] / "examples"
FASHION = Path("/usr/share/datasets/fashion-mnist")

REACHED = {
    "image_classification": 0.65,
    "sensor_classification": 0.4,
    "transfer_learning": 0.85,
    "own_phones": 0.8,
    "tabular_regression": 0.25,
    "next_token": 0.35,
}
"""Test accuracy that --quick reaches at least: chance is 0.1, 0.14, 0.2 and 0.1; of the regression R2, where
the mean of all targets has 0; of the next character 0.25, if it is always a space.
"""


def reached(example: str, folder: Path, *words: str) -> float:
    """What an example prints that it has reached; its report is there."""
    command = [sys.executable, str(EXAMPLES / example / "main.py"), "--quick", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = re.search(r"test (?:accuracy|R2) (0\.\d+|1\.0+) of .*; report: (\S+)\n$", done.stdout)
    assert told is not None, done.stdout
    assert (folder / told[2]).is_file()
    return float(told[1])


def test_every_example_is_told_of_and_tested() -> None:
    there = {path.parent.name for path in EXAMPLES.glob("*/main.py")}
    assert there == set(REACHED)
    page = (EXAMPLES / "README.md").read_text()
    assert set(re.findall(r"`python (\w+)/main.py", page)) == there


@pytest.mark.system
@pytest.mark.parametrize("example", [name for name in REACHED if name != "own_phones"])
def test_an_example_learns(tmp_path: Path, home: Path, example: str) -> None:
    if example == "image_classification" and not FASHION.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    if example == "sensor_classification" and importlib.util.find_spec("seglearn") is None:
        pytest.skip("seglearn, which brings the signals, is not installed")
    assert reached(example, tmp_path) >= REACHED[example]


@pytest.mark.system
def test_own_phones_keep_their_samples(tmp_path: Path, home: Path) -> None:
    """Virtual phones stand in for them; the adb client is the real one."""
    if shutil.which("adb") is None:
        pytest.skip("no adb client on this machine")
    port = f"{20000 + os.getpid() % 20000}"
    with pytest.MonkeyPatch.context() as patch, virtual_phones(3, tmp_path / "phones") as serials:
        patch.setenv("ANDROID_ADB_SERVER_PORT", port)  # a server of this test's own
        try:
            assert reached("own_phones", tmp_path, *serials) >= REACHED["own_phones"]
        finally:
            subprocess.run(["adb", "kill-server"], check=False)
