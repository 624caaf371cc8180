"""Wheels and sdists: complete, accepted by an index, and enough where nothing else is installed."""

import email
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest

from .distributions import FOLDERS, ROOT, closure, normal, packages, project

pytestmark = pytest.mark.system


@dataclass(frozen=True)
class Built:
    """The source distribution of a folder, and the wheel that was built from it and from nothing else."""

    folder: str
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    sdists, wheels = tmp_path_factory.mktemp("sdists"), tmp_path_factory.mktemp("wheels")
    found = []
    for folder in FOLDERS:
        run([sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(sdists)], ROOT / folder)
        (sdist,) = sdists.glob(f"{stem(folder)}-*.tar.gz")
        options = ["-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(wheels)]
        run([sys.executable, "-m", "pip", "wheel", *options, str(sdist)], sdists)
        (wheel,) = wheels.glob(f"{stem(folder)}-*.whl")
        found.append(Built(folder, sdist, wheel))
    return found


def test_every_wheel_says_what_it_is_and_may_be_used_for(built: Sequence[Built]) -> None:
    for item in built:
        with zipfile.ZipFile(item.wheel) as wheel:
            names = set(wheel.namelist())
            (place,) = [name for name in names if name.endswith(".dist-info/METADATA")]
            metadata = email.message_from_bytes(wheel.read(place))
            text = (ROOT / item.folder / "README.md").read_text()
            assert str(metadata.get_payload()).strip() == text.strip()
            licences = [name for name in names if name.endswith("licenses/LICENSE")]
            assert [wheel.read(name) for name in licences] == [(ROOT / "LICENSE").read_bytes()]
            for package in packages(item.folder):
                assert f"{package.name}/py.typed" in names
        assert metadata["License-Expression"] == "Apache-2.0"
        assert metadata.get_all("Project-URL")
        assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_every_sdist_holds_the_licence_itself(built: Sequence[Built]) -> None:
    for item in built:
        with tarfile.open(item.sdist) as sdist:
            (licence,) = [member for member in sdist.getmembers() if member.name.endswith("/LICENSE")]
            assert licence.isfile()


def test_an_index_takes_them(built: Sequence[Built]) -> None:
    files = [str(path) for item in built for path in (item.sdist, item.wheel)]
    run([sys.executable, "-m", "twine", "check", "--strict", *files], ROOT)


def test_installed_beside_what_they_require_they_train_and_export(
    built: Sequence[Built], tmp_path: Path
) -> None:
    python = clean_environment(tmp_path / "environment")
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    run([*pip, "install", "-q", "--no-index", *(str(item.wheel) for item in built)], tmp_path)
    run([*pip, "check"], tmp_path)
    command, empty = str(python.with_name("crowdlearn")), tmp_path / "empty"
    empty.mkdir()
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CROWDLEARN_HOME": str(tmp_path / "home")}
    assert "demo" in run([command, "--help"], empty, environment)
    assert "serve" in run([str(python.with_name("crowdlearn-device")), "--help"], empty, environment)
    assert not list(empty.iterdir())
    run([command, "demo", "--epochs", "1", "--run", "demo"], empty, environment)
    told = run([command, "export-model", "demo", "--onnx", "model.onnx"], empty, environment)
    assert "in onnxruntime" in told
    assert (empty / "model.onnx").stat().st_size


def clean_environment(folder: Path) -> Path:
    """The Python of an environment with all that our distributions require, and nothing else.

    The files are links to this environment's own: installing them anew would take minutes.
    """
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    wanted = {name for each in FOLDERS for name in closure(each)}
    here = {normal(d.name): d for d in distributions() if normal(d.name) in wanted}
    assert set(here) == wanted
    for distribution in here.values():
        root = Path(str(distribution.locate_file("")))
        for file in distribution.files or ():
            source, target = root / file, site / file
            if ".." not in file.parts and source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:  # another file system
                    target.symlink_to(source)
    return folder / "bin" / "python"


def stem(folder: str) -> str:
    """The name of a folder's distribution as it stands in file names."""
    return str(project(folder)["name"]).replace("-", "_")


def run(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Standard output; an error is shown with what the command printed."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout
