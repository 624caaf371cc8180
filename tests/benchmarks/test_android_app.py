"""What of the Android app can be checked here: `make android-check`. No Android takes part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from crowdlearn_host import emulator as phones
from crowdlearn_host.adb import AdbDevice, AppDeployment
from crowdlearn_host.adb.deployment.app import PACKAGE
from crowdlearn_host.bundle import Bundle
from crowdlearn_host.bundle.elf import read_elf
from crowdlearn_host.bundle.tree import LOADER

from benchmarks.android.app.apk import Made, make_apk
from benchmarks.android.app.signatures import write_stubs
from benchmarks.android.app.tools import android_stubs
from benchmarks.android.library import Missing
from tests.host.emulator.test_clients import CLIENTS, Client

ROOT = Path(__file__).parents[2]
OF_ANDROID = ("cryptography==42.0.8",)
"""The newest that Chaquopy's index has; of NumPy it has none for Python 3.13 that is official."""
OLDEST = ("cryptography==42.0.8", "numpy==1.26.4")
PURE = ("pytest", "pluggy", "iniconfig", "packaging", "Pygments", "pytest-asyncio")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, android_cache: Path) -> Made:
    try:
        return make_apk(tmp_path_factory.mktemp("apk") / "app.apk", android_cache)
    except Missing as reason:
        pytest.skip(str(reason))


def test_the_app_compiles_against_android_and_its_apk_verifies(made: Made) -> None:
    assert "Verified using v2 scheme (APK Signature Scheme v2): true" in made.verified
    assert "Verified using v3 scheme (APK Signature Scheme v3): true" in made.verified
    with zipfile.ZipFile(made.apk) as archive:
        assert archive.read("classes.dex").startswith(b"dex\n")
        own = read_elf(archive.read("lib/arm64-v8a/libcrowdlearn.so"))
        assert (own.needed, own.alignment) == ((), 16384)


def test_the_manifest_says_who_may_start_it_and_what_it_is_for(made: Made) -> None:
    dump = ["aapt2", "dump", "xmltree", "--file", "AndroidManifest.xml", str(made.apk)]
    tree = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    service = tree[tree.index("TrainingService") :].split("E: service")[0]
    assert '="android.permission.DUMP"' in service
    assert "foregroundServiceType(0x01010599)=0x40000000" in service
    assert "android.app.PROPERTY_SPECIAL_USE_FGS_SUBTYPE" in service
    provider = tree[tree.index('".Monitors"') :].split("E: receiver")[0]
    assert '="org.crowdlearn.device.energy"' in provider
    assert 'readPermission(0x01010007)="android.permission.DUMP"' in provider
    assert "targetSdkVersion(0x01010270)=35" in tree
    assert "minSdkVersion(0x0101020c)=24" in tree


async def test_an_unmodified_adb_installs_it_and_its_python_half_listens(made: Made, tmp_path: Path) -> None:
    program, reason = CLIENTS["system"]
    if program is None:
        pytest.skip(reason)
    with phones.running(1, tmp_path / "home") as (phone,):
        client = Client(program, tmp_path, phone.serial)
        client.connect()
        try:
            assert b"Success" in client("install", str(made.apk)).stdout
        finally:
            client("kill-server", device=False)
        async with await AdbDevice.connect(phone.serial) as device:
            assert (await device.shell(f"pm path {PACKAGE}")).stdout.startswith(b"package:")
            deployment = AppDeployment(device, arguments=["--name", "phone-1"])
            await deployment.start()
            (await deployment.connect()).close()
            await deployment.stop()


def test_a_class_that_android_does_not_have_is_told(tmp_path: Path, android_cache: Path) -> None:
    try:
        stubs = android_stubs(android_cache)
    except Missing as reason:
        pytest.skip(str(reason))
    with pytest.raises(LookupError, match=r"Android has no class android\.app\.Servant"):
        write_stubs(stubs, ["android.app.Servant"], {"onCreate"}, tmp_path)
    paths = write_stubs(stubs, ["android.app.Service"], {"onBind", "START_STICKY"}, tmp_path / "out")
    (service,) = (path.read_text() for path in paths if path.name == "Service.java")
    assert "public android.os.IBinder onBind(android.content.Intent p0)" in service
    assert "extends android.content.ContextWrapper" in service
    assert "stopSelf" not in service


def fetched(packages: tuple[str, ...], python: str, folder: Path) -> Path:
    options = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        python,
        "--target",
        str(folder),
    ]
    pip = [sys.executable, "-m", "pip", "install", *options, *packages]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{', '.join(packages)} cannot be fetched: {done.stderr.strip()[-200:]}")
    return folder


def test_the_python_half_runs_under_the_versions_that_android_has(tmp_path: Path) -> None:
    """On this computer's Python, with the oldest packages that the device package allows."""
    site = fetched(OLDEST, "3.11", tmp_path / "site")
    tests = [f"tests/device_runtime/{name}" for name in ("app", "test_envelope.py", "test_state.py")]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_the_python_half_runs_on_python_3_13(x86_bundle: Bundle, tmp_path: Path) -> None:
    """On the Python of a bundle, which is of the version that the app has."""
    assert x86_bundle.python_version == "3.13"
    site = fetched(OF_ANDROID, "3.13", tmp_path / "site")
    for archive in (x86_bundle.python, x86_bundle.device):
        with tarfile.open(archive.path) as tar:
            tar.extractall(tmp_path / archive.digest, filter="data")
    for name in PURE:
        found = distribution(name)
        for file in found.files or ():
            if ".." not in file.parts and file.suffix != ".pyc" and not (site / file).exists():
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(str(found.locate_file(file)), site / file)
    python = tmp_path / x86_bundle.python.digest
    program = [str(python / LOADER), "--library-path", str(python / "lib")]
    program += [str(python / f"bin/python{x86_bundle.python_version}"), "-m", "pytest", "-q", "--noconftest"]
    options = ["-p", "no:cacheprovider", "-c", os.devnull, "-o", "asyncio_mode=auto"]
    tests = [str(ROOT / "tests/device_runtime/app"), str(ROOT / "tests/device_runtime/test_serve.py")]
    paths = os.pathsep.join([str(site), str(tmp_path / x86_bundle.device.digest)])
    environment = {"PYTHONPATH": paths, "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [*program, *options, *tests],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
