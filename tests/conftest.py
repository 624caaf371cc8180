"""For every test: a home of the session's own, and hypothesis does not time examples, machines are noisy."""

import os
import platform
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from crowdlearn_host.bundle import Bundle

settings.register_profile("crowdlearn", deadline=None)
settings.load_profile("crowdlearn")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with tests that take minutes: no worker has one left while the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this session compiles, for all of its workers: never what an earlier exporter did."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "programs"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages and bundles of this session, for all of its workers."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("bundles are made of Debian's packages: no dpkg-deb on this computer")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "bundles"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def android_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is fetched and made of Android's libraries, for all workers of this session: each package by its
    hash. CROWDLEARN_ANDROID_CACHE names a folder that lasts.
    """
    if lasting := os.environ.get("CROWDLEARN_ANDROID_CACHE"):
        return Path(lasting)
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "android"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def app_classes(tmp_path_factory: pytest.TempPathFactory, android_cache: Path) -> list[Path]:
    """Folders and archives of the app's classes, for a Java VM on which Android is played."""
    pytest.importorskip("jpype", reason="pip install jpype1")
    from benchmarks.android.app.apk import make_classes
    from benchmarks.android.library import Missing

    try:
        return make_classes(tmp_path_factory.mktemp("classes"), android_cache)
    except Missing as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def x86_bundle(bundles: Path) -> "Bundle":
    if platform.machine() != "x86_64":
        pytest.skip("this computer does not run the bundle for x86-64")
    return _made("x86_64", bundles)


@pytest.fixture(scope="session")
def arm_bundle(bundles: Path) -> "Bundle":
    if shutil.which("qemu-aarch64-static") is None:
        pytest.skip("no QEMU for ARM: apt-get install qemu-user-static")
    return _made("arm64-v8a", bundles)


def _made(abi: str, bundles: Path) -> "Bundle":
    from crowdlearn_host.bundle import make_bundle  # what a phone has no host for

    return make_bundle(abi, bundles)


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Iterator[None]:
    """In place of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        _move_into(tmp_path_factory.mktemp("home"), programs, patch)
        yield


@pytest.fixture
def home(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of this test alone, but for the programs."""
    (tmp_path / "home").mkdir()
    _move_into(tmp_path / "home", programs, monkeypatch)
    return tmp_path / "home"


def _move_into(home: Path, programs: Path, patch: pytest.MonkeyPatch) -> None:
    (home / "programs").symlink_to(programs)
    patch.setenv("CROWDLEARN_HOME", str(home))
    patch.setenv("HOME", str(home))  # where adb's key is
