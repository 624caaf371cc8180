"""Executors keep to conformance.py: ExecuTorch's own here, the torch-free one in the Python of a bundle."""

import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import pytest
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.bundle.tree import LOADER

from benchmarks.android.jvm import java_vm
from benchmarks.android.library import Missing

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
REFUSALS = "test_arrays_of_another_shape_dtype_or_number_are_refused"
PURE = ("pytest", "pluggy", "iniconfig", "packaging", "Pygments")
"""What pytest needs, none of it compiled: it runs in the other Python as it is."""


def test_executorchs_own(folder: Path) -> None:
    passes([sys.executable], {**os.environ, "CROWDLEARN_PROGRAMS": str(folder)})


def test_the_torch_free_one(folder: Path, x86_bundle: Bundle, tmp_path: Path) -> None:
    for archive in (x86_bundle.python, x86_bundle.device):
        with tarfile.open(archive.path) as tar:
            tar.extractall(tmp_path / archive.digest, filter="data")
    site = tmp_path / "site"
    for name in PURE:
        found = distribution(name)
        for file in found.files or ():
            if file.suffix == ".py" and ".." not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(Path(str(found.locate_file(file))).resolve())
    python = tmp_path / x86_bundle.python.digest
    program = python / f"bin/python{x86_bundle.python_version}"
    paths = os.pathsep.join([str(site), str(tmp_path / x86_bundle.device.digest)])
    environment = {"CROWDLEARN_PROGRAMS": str(folder), "PYTHONPATH": paths, "HOME": str(tmp_path)}
    passes([str(python / LOADER), "--library-path", str(python / "lib"), str(program)], environment)


def test_the_apps_on_a_java_vm(folder: Path, android_cache: Path) -> None:
    """The Java half of the app and Android's own library, x86-64, behind the Python half."""
    pytest.importorskip("jpype", reason="pip install jpype1")
    try:
        vm = java_vm(android_cache)
    except Missing as reason:
        pytest.skip(str(reason))
    site = os.pathsep.join(filter(None, [vm.environment["PYTHONPATH"], os.environ.get("PYTHONPATH")]))
    only = {"CROWDLEARN_PROGRAMS": str(folder), "CROWDLEARN_EXECUTOR": "android"}
    # A refusal is a C++ exception of Android's C++ library, which glibc's unwinder does not carry through.
    left_out = ["-k", f"not {REFUSALS}"]
    passes([sys.executable], {**os.environ, **vm.environment, "PYTHONPATH": site, **only}, left_out)


def passes(python: list[str], environment: dict[str, str], more: Sequence[str] = ()) -> None:
    """All of conformance.py, in another process."""
    options = ["-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(HERE)]
    run = subprocess.run(
        [*python, "-m", "pytest", *options, *more, str(HERE / "conformance.py")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 0, f"{run.stdout[-4000:]}\n{run.stderr[-2000:]}"
    assert "skipped" not in run.stdout
