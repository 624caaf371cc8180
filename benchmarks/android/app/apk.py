"""Make an APK of the app as far as it goes here: `python -m benchmarks.android.app.apk FILE`.

Java is compiled against the library's own classes and Android's signatures, dexed, linked with the manifest,
aligned, signed by a key that is made for it, and verified. Python and its packages, which Chaquopy would add,
are not inside: it installs, and is no release.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.android.library import APP_LIBRARIES, OPENS_DESCRIPTORS, Missing, build

from .signatures import identifiers, imports, write_stubs
from .tools import (
    MORE_PROGRAMS,
    PROGRAMS,
    android_stubs,
    dex_compiler,
    library_classes,
    missing_programs,
    require_programs,
)

APP = Path(__file__).parents[3] / "android_app"
MAIN = APP / "app/src/main"
STUBS, PLAYED = APP / "check/stubs", APP / "check/played"
MINIMUM, TARGET = 24, 35
DX_VERSION, JAVA_VERSION = 51, "8"
"""The newest class file that the dex compiler takes. Compiled for Java 8, the app's own differ by the number
alone: it uses no lambdas.
"""
PASSWORD = "crowdlearn"
"""Of a key that lives as long as the check."""


@dataclass(frozen=True)
class Made:
    """An APK, and what was said of it when it was verified."""

    apk: Path
    classes: int
    verified: str


def make_apk(target: Path, cache: Path | None = None) -> Made:
    """Make the APK. Raises Missing if something is not here, RuntimeError with what a tool refuses."""
    require_programs()
    stubs, (library, native), dx = android_stubs(cache), library_classes(cache), dex_compiler(cache)
    with tempfile.TemporaryDirectory(prefix="crowdlearn-") as made:
        folder = Path(made)
        linked, generated = _link(folder)
        classes = _compile(folder, stubs, library, generated)
        dex = _dex(folder, dx, [classes, _lowered(library, folder / "library")])
        crossed = _native(folder)
        with zipfile.ZipFile(linked, "a", zipfile.ZIP_STORED) as archive:
            archive.write(dex, "classes.dex")
            archive.write(native, "lib/arm64-v8a/libexecutorch.so")
            for library in crossed:
                archive.write(library, f"lib/arm64-v8a/{library.name}")
        signer = _sign(folder, linked, target)
        return Made(target, len(list(classes.rglob("*.class"))), signer)


def _link(folder: Path) -> tuple[Path, Path]:
    """The resources and the manifest as an APK, and the folder of the generated class R."""
    framework = folder / "framework.apk"
    values = folder / "framework"
    values.mkdir()
    build(["aapt2", "compile", str(APP / "check/framework/values/attrs.xml"), "-o", str(values)])
    own = ["--manifest", str(APP / "check/framework/AndroidManifest.xml"), "-o", str(framework)]
    build(["aapt2", "link", *own, *map(str, values.iterdir())])
    resources, linked, generated = folder / "resources", folder / "linked.apk", folder / "generated"
    resources.mkdir()
    for file in sorted((MAIN / "res").rglob("*.xml")):
        build(["aapt2", "compile", str(file), "-o", str(resources)])
    manifest = (MAIN / "AndroidManifest.xml").read_text()
    named = folder / "AndroidManifest.xml"  # Gradle puts the namespace there
    named.write_text(manifest.replace("<manifest ", '<manifest package="org.crowdlearn.device" ', 1))
    versions = ["--min-sdk-version", str(MINIMUM), "--target-sdk-version", str(TARGET)]
    versions += ["--version-code", "2", "--version-name", "0.2.0"]
    files = [str(file) for file in sorted(resources.iterdir())]
    link = ["aapt2", "link", "-I", str(framework), *versions, "-o", str(linked)]
    # Debian's aapt2 does not know <property>: all else is held to its rules, then the whole is linked.
    strict = folder / "strict" / "AndroidManifest.xml"
    strict.parent.mkdir()
    strict.write_text(re.sub(r"<property\b.*?/>", "", named.read_text(), flags=re.S))
    build([*link, "--manifest", str(strict), *files])
    whole = ["--manifest", str(named), "--warn-manifest-validation"]
    build([*link, *whole, "--java", str(generated), *files])
    return linked, generated


def make_classes(folder: Path, cache: Path | None = None) -> list[Path]:
    """Compile the app against an Android that is played (player.py); return the folders and archives that a
    Java VM runs it from. Raises Missing if something is not here.
    """
    require_programs()
    stubs, (library, _) = android_stubs(cache), library_classes(cache)
    _, generated = _link(folder)
    return [_compile(folder, stubs, library, generated, played=True), folder / "api", library]


def _compile(folder: Path, stubs: Path, library: Path, generated: Path, *, played: bool = False) -> Path:
    """The app's own classes, compiled against the signatures and the library."""
    sources = sorted((MAIN / "java").rglob("*.java"))
    own = {path.relative_to(PLAYED): path for path in PLAYED.rglob("*.java")} if played else {}
    stand_ins = {path.relative_to(STUBS): path for path in STUBS.rglob("com/chaquo/**/*.java")}
    chaquopy = sorted((stand_ins | own).values())
    texts = [path.read_text() for path in (*sources, *chaquopy)]
    words = set().union(*map(identifiers, texts))
    used = {name for text in texts for name in imports(text)}
    signatures = write_stubs(stubs, sorted(used), words, folder / "signatures", played=played)
    api, classes = folder / "api", folder / "classes"
    release = ["--release", JAVA_VERSION, "-Xlint:-options", "-nowarn", "-proc:none"]
    build(["javac", *release, "-d", str(api), *map(str, (*signatures, *chaquopy))])
    path = ["-cp", f"{api}:{library}"]
    every = [*sources, *generated.rglob("*.java")]
    build(["javac", *release, *path, "-d", str(classes), *map(str, every)])
    _lower(classes.rglob("*.class"))
    return classes


def _lowered(library: Path, folder: Path) -> Path:
    with zipfile.ZipFile(library) as archive:
        archive.extractall(folder)
    # Those for language models have interfaces with methods in them, which this dex compiler does not know.
    shutil.rmtree(folder / "org/pytorch/executorch/extension/llm")
    _lower(folder.rglob("*.class"))
    return folder


def _lower(files: Iterable[Path]) -> None:
    for file in files:
        content = bytearray(file.read_bytes())
        content[6:8] = DX_VERSION.to_bytes(2, "big")
        file.write_bytes(content)


def _dex(folder: Path, dx: Path, classes: list[Path]) -> Path:
    target = folder / "classes.dex"
    command = ["java", "-cp", str(dx), "com.android.dx.command.Main", "--dex", f"--output={target}"]
    build([*command, *map(str, classes)])
    build(["dexdump", "-c", str(target)])
    return target


def _native(folder: Path) -> list[Path]:
    """The app's own libraries for ARM; functions of a C library they find in the process."""
    headers = Path(shutil.which("javac") or "").resolve().parents[1] / "include"
    options = ["-O1", "-fPIC", "-shared", "-nostdlib", "-Wl,-z,max-page-size=16384"]
    include = ["-I", str(headers), "-I", str(headers / "linux")]
    made = []
    for name, sources in APP_LIBRARIES.items():
        made.append(folder / f"lib{name}.so")
        files = [str(MAIN / "cpp" / source) for source in sources]
        flags = ["-Wl,-z,global"] if name == OPENS_DESCRIPTORS else []
        build(["aarch64-linux-gnu-gcc", *options, *flags, *include, *files, "-o", str(made[-1])])
    return made


def _sign(folder: Path, linked: Path, target: Path) -> str:
    aligned, keys = folder / "aligned.apk", folder / "keys"
    build(["zipalign", "-p", "-f", "4", str(linked), str(aligned)])
    make = ["keytool", "-genkeypair", "-keystore", str(keys), "-storepass", PASSWORD, "-keypass", PASSWORD]
    build([*make, "-alias", "check", "-keyalg", "RSA", "-validity", "2", "-dname", "CN=check"])
    sign = ["apksigner", "sign", "--ks", str(keys), "--ks-pass", f"pass:{PASSWORD}"]
    build([*sign, "--v2-signing-enabled", "true", "--out", str(target), str(aligned)])
    target.with_name(f"{target.name}.idsig").unlink(missing_ok=True)
    verify = ["apksigner", "verify", "--verbose", str(target)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the APK does not verify: {done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    for line in missing_programs({**PROGRAMS, **MORE_PROGRAMS}):
        print(f"missing: {line}")
    try:
        target = Path(sys.argv[1]).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        result = make_apk(target)
    except Missing as reason:
        sys.exit(f"not made: {reason}")
    print(f"{result.apk}: {result.apk.stat().st_size} bytes, {result.classes} classes of the app")
    print(result.verified)
