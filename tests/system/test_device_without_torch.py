"""A phone installs the device package alone: it must import and pass its tests where no torch is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-device" / "bin" / "python"


def test_the_device_package_passes_its_tests_without_torch():
    made = subprocess.run(["make", "device-env"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-2000:]
    no_torch = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    assert subprocess.run([PYTHON, "-c", no_torch], check=False).returncode == 0
    tested = subprocess.run(
        [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/device_runtime"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert " passed" in tested.stdout
    assert "skipped" not in tested.stdout
