"""The programs and packages that the check of the app needs, or how to get them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from crowdlearn.testing import cache_home, turn

from benchmarks.android.library import PACKAGE, SHA512, VERSION, Missing, fetch_package

PROGRAMS = {
    "javac": "openjdk-17-jdk-headless",
    "keytool": "openjdk-17-jdk-headless",
    "java": "openjdk-17-jdk-headless",
    "aapt2": "aapt",
    "apksigner": "apksigner",
    "zipalign": "zipalign",
    "dexdump": "dexdump",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu",
}
"""What an APK takes, and the Debian package that has it."""
MORE_PROGRAMS = {
    "npm": "npm",
    "gcc": "gcc",
    "g++": "g++",
    "nm": "binutils",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "qemu-aarch64-static": "qemu-user-static",
    "dpkg-deb": "dpkg",
    "adb": "adb",
}
"""What the tests of `make android-check` take beside; without one of them, some are skipped."""
DX, DX_VERSION = "@nativescript/android", "9.1.1"
DX_SHA512 = "oDWfVnQtgQ0ctbfFWSugqGEZnYVjls82FqlO5UbA9HNwTNqdP4gqWwqHR80WKQngrbxlRHYDIuYv5S9kQfKhcw=="
DX_JAR = "package/framework/build-tools/android-metadata-generator.jar"
STUBS, STUBS_VERSION = "chaquopy-stubs-android", "36.20260406"
STUBS_SHA256 = "5e18511ccb7ae519d8c4643408cf16262fa5f20eb1d1a7e97cfe28de16e12008"


def missing_programs(wanted: Mapping[str, str] = PROGRAMS) -> list[str]:
    """Return a line for each program that is not here, with the Debian package that has it."""
    return [
        f"no {program}: apt-get install {package}"
        for program, package in wanted.items()
        if shutil.which(program) is None
    ]


def require_programs() -> None:
    """Raise Missing if a program is not here."""
    if missing := missing_programs():
        raise Missing("; ".join(missing))


def dex_compiler(cache: Path | None = None) -> Path:
    """The archive that holds the class com.android.dx.command.Main. Raises Missing."""
    cache = cache or cache_home() / "android"
    jar = cache / "dx.jar"
    with turn(jar):
        if not jar.exists():
            with tarfile.open(fetch_package(DX, DX_VERSION, DX_SHA512, cache)) as tar:
                source = tar.extractfile(DX_JAR)
                assert source is not None
                _put(jar, source.read())
            (cache / f"nativescript-android-{DX_VERSION}.tgz").unlink()  # 150 MB for one of 3
    return jar


def library_classes(cache: Path | None = None) -> tuple[Path, Path]:
    """The Java classes of ExecuTorch's Android library, and its ARM half. Raises Missing."""
    cache = cache or cache_home() / "android"
    jar, library = cache / "executorch.jar", cache / "libexecutorch-arm64.so"
    with turn(jar):
        if not jar.exists() or not library.exists():
            with tarfile.open(fetch_package(PACKAGE, VERSION, SHA512, cache)) as tar:
                inner = "package/third-party/android/libs/executorch/arm64-v8a/libexecutorch.so"
                for name, target in (("package/android/libs/classes.jar", jar), (inner, library)):
                    source = tar.extractfile(name)
                    assert source is not None
                    _put(target, source.read())
    return jar, library


def android_stubs(cache: Path | None = None) -> Path:
    """The folder of Android's signatures as Python stubs. Raises Missing."""
    cache = cache or cache_home() / "android"
    folder = cache / f"stubs-{STUBS_VERSION}"
    with turn(folder):
        if not folder.exists():
            wheel = cache / f"{STUBS.replace('-', '_')}-{STUBS_VERSION}-py3-none-any.whl"
            cache.mkdir(parents=True, exist_ok=True)
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache)]
            done = subprocess.run([*fetch, f"{STUBS}=={STUBS_VERSION}"], capture_output=True, text=True)
            if done.returncode or not wheel.exists():
                raise Missing(f"{STUBS} {STUBS_VERSION} cannot be fetched: {done.stderr.strip()[-200:]}")
            if hashlib.sha256(wheel.read_bytes()).hexdigest() != STUBS_SHA256:
                wheel.unlink()
                raise Missing(f"{STUBS} {STUBS_VERSION} was fetched and is not what is pinned")
            part = folder.with_name(f"{folder.name}.part")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(part)
            part.rename(folder)
            wheel.unlink()
    return folder


def _put(target: Path, content: bytes) -> None:
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(content)
    part.replace(target)
