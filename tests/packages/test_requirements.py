"""What the distributions require is what their code imports."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .distributions import FOLDERS, ROOT, declared, imported, normal, project

READ_BY_OTHERS = {
    "onnxscript": "torch.onnx writes with it",
    "ruamel-yaml-clib": "executorch reads its list of operators with it",
    "tensorboardx": "crowdlearn.listeners writes with it, if asked",
    "mlflow-skinny": "crowdlearn.listeners writes with it, if asked",
    "atheris": "benchmarks/fuzz runs with it",
}
"""Distributions that our own code does not import, and why they are required."""


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_declared(folder: str) -> None:
    names = set(map(normal, declared(folder)))
    assert not {name: files for name, files in imported(folder).items() if normal(name) not in names}


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_declared_is_imported(folder: str) -> None:
    used = {*map(normal, imported(folder)), *READ_BY_OTHERS}
    ours = {project(each)["name"] for each in FOLDERS}
    assert not {name for name in map(normal, declared(folder)) if name not in used} - ours


def test_the_three_distributions_are_of_one_version() -> None:
    versions = {project(folder)["version"] for folder in FOLDERS}
    assert len(versions) == 1
    pins = [line for folder in FOLDERS for line in project(folder)["dependencies"] if "crowdlearn" in line]
    assert {line.partition("==")[2] for line in pins} == versions


@pytest.mark.parametrize("version", ["5.26.1", "6.33.0"])
def test_messages_are_the_same_with_older_protobuf(version: str, tmp_path: Path) -> None:
    """Others in one environment hold protobuf back (Flower does), or bring a newer one."""
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site)]
    installed = subprocess.run(
        [*install, f"protobuf=={version}"], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"protobuf {version} cannot be had here: {installed.stderr.strip()[-200:]}")
    program = "import google.protobuf as p; print(p.__version__)"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == version
    tests = ["tests/device_runtime/test_wire.py", "tests/device_runtime/test_envelope.py"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"\d+ passed", run.stdout)
    assert "skipped" not in run.stdout
