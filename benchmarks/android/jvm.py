"""Android's Java API of ExecuTorch on a Java VM of this computer: the app's executor with real programs.

The library's JNI half runs on x86-64 over glibc, as in library.py. `libfbjni.so` and `libc++_shared.so` come
from npm's react-native; `android_app/check/stubs` has the few classes that the API refers to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from crowdlearn.testing import cache_home, turn

from .library import (
    APP_LIBRARIES,
    NATIVE,
    OPENS_DESCRIPTORS,
    PACKAGE,
    SHA512,
    VERSION,
    Missing,
    build,
    fetch_package,
    for_glibc,
)

REACT, REACT_VERSION = "react-native", "0.69.12"
REACT_SHA512 = "kHOj4V0wD/hvjyiiXPP96fMBSRNnx0MXGTTrL43KppsWvKnOtvnQ/qSTWR0d3s6Hi4n7mx3Un+NqCuBKsf+5yg=="
APP = Path(__file__).parents[2] / "android_app"
JAVA = APP / "app/src/main/java/org/crowdlearn/device"
SOURCES = (JAVA / "Memory.java", JAVA / "ProgramRunner.java")
CPP = APP / "app/src/main/cpp"
CLASS_VERSION = "11"
_FLAGS, _SYMBOLIC = 0x1E, 2


@dataclass(frozen=True)
class JavaVm:
    """`environment` in which Python finds the module `java`, and through it Android's library."""

    environment: dict[str, str]
    folder: Path

    def of_isolated(self) -> dict[str, str]:
        """`environment` of an isolated process: what is linked with -z global is looked in before the C
        library on Android, and preloaded libraries are here.
        """
        opens = str(self.folder / f"lib{OPENS_DESCRIPTORS}.so")
        return {**self.environment, "LD_PRELOAD": f"{self.environment['LD_PRELOAD']} {opens}"}


def java_vm(cache: Path | None = None) -> JavaVm:
    """Make all that is needed once, in `cache`. Raises Missing."""
    compiler, native = shutil.which("javac"), shutil.which("gcc")
    if compiler is None or native is None:
        raise Missing("no javac or gcc: apt-get install openjdk-17-jdk-headless gcc")
    cache = cache or cache_home() / "android"
    stubs = sorted(path for path in (APP / "check/stubs").rglob("*.java") if "chaquo" not in path.parts)
    sources = [*stubs, *SOURCES]
    content = b"".join(
        path.read_bytes() for path in (*sources, *sorted(CPP.iterdir()), *sorted(NATIVE.iterdir()))
    )
    folder = cache / f"jvm-{hashlib.sha256(content).hexdigest()[:16]}"
    with turn(cache / "jvm"):
        if not (folder / "ready").exists():
            _fetch(cache, folder)
            library = str(folder / "libbionic.so")
            files = [str(NATIVE / "bionic.c"), str(NATIVE / "bionic_jvm.c")]
            build([native, "-O1", "-fPIC", "-shared", "-o", library, *files, "-ldl"])
            headers = Path(compiler).resolve().parents[1] / "include"
            include = ["-I", str(headers), "-I", str(headers / "linux")]
            for name, parts in APP_LIBRARIES.items():
                own = [*include, *(str(CPP / part) for part in parts)]
                build([native, "-O1", "-fPIC", "-shared", "-o", str(folder / f"lib{name}.so"), *own])
            options = ["--release", CLASS_VERSION, "-cp", str(folder / "executorch.jar")]
            build([compiler, *options, "-d", str(folder / "classes"), *map(str, sources)])
            (folder / "ready").touch()
    loaded = ("libbionic.so", "libc++_shared.so", "libfbjni.so")
    return JavaVm(
        {
            "LD_PRELOAD": " ".join(str(folder / name) for name in loaded),
            "CLASSPATH": f"{folder / 'classes'}:{folder / 'executorch.jar'}",
            "CROWDLEARN_JVM": str(folder),
            "PYTHONPATH": os.pathsep.join(
                filter(None, [str(Path(__file__).parent / "on_jvm"), os.environ.get("PYTHONPATH")])
            ),
        },
        folder,
    )


def _fetch(cache: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fetch_package(PACKAGE, VERSION, SHA512, cache)) as tar:
        _copy(tar, "package/android/libs/classes.jar", folder / "executorch.jar")
        name = "package/third-party/android/libs/executorch/x86_64/libexecutorch.so"
        _copy(tar, name, folder / "libexecutorch.so")
    own = (folder / "libexecutorch.so").read_bytes()
    (folder / "libexecutorch.so").write_bytes(symbolic(for_glibc(own)))  # it has a C++ library inside
    aar = folder / "react-native.aar"
    with tarfile.open(fetch_package(REACT, REACT_VERSION, REACT_SHA512, cache)) as tar:
        name = f"package/android/com/facebook/react/react-native/{REACT_VERSION}"
        _copy(tar, f"{name}/react-native-{REACT_VERSION}-release.aar", aar)
    with zipfile.ZipFile(aar) as archive:
        for name in ("libfbjni.so", "libc++_shared.so"):
            (folder / name).write_bytes(for_glibc(archive.read(f"jni/x86_64/{name}")))
    aar.unlink()


def _copy(tar: tarfile.TarFile, name: str, target: Path) -> None:
    source = tar.extractfile(name)
    if source is None:
        raise Missing(f"{tar.name!r} has no {name}")
    target.write_bytes(source.read())


def symbolic(content: bytes) -> bytes:
    """A library that takes its own symbols before those of libraries that were loaded before it."""
    changed = bytearray(content)
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", content, table + number * size)
        for at in range(offset, offset + length, 16) if kind == 2 else ():
            tag, value = struct.unpack_from("<QQ", content, at)
            if tag == _FLAGS:
                struct.pack_into("<Q", changed, at + 8, value | _SYMBOLIC)
    return bytes(changed)
