"""Android's own ExecuTorch library, as npm's react-native-executorch ships it, loaded by the C library here.

The library is built with the NDK against bionic. Its dynamic section is changed so that glibc's loader takes
it, `native/bionic.c` has what glibc lacks, and `native/runner.cpp` runs methods on it: ARM's under QEMU.
"""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from crowdlearn.testing import cache_home, turn
from crowdlearn_device.program.replay import Arrays

PACKAGE, VERSION = "react-native-executorch", "0.8.5"
SHA512 = "MnJed2mO0Up8+iznsI9mAhmS1ZOTLeCoSRbemETGU1aPq3veib55inm1N1eCr1ktklKK25KeU8Hww177JNDcZg=="
"""Of the package's archive, as npm tells it."""

NATIVE = Path(__file__).parent / "native"
OPENS_DESCRIPTORS = "crowdlearn_open"
APP_LIBRARIES = {"crowdlearn": ("memory.c", "line.c"), OPENS_DESCRIPTORS: ("opened.c",)}
"""The app's own libraries and their sources, as in its CMakeLists.txt."""
LIBRARIES = {"android-x86_64": "x86_64", "android-arm64": "arm64-v8a"}
COMPILERS = {"android-x86_64": "g++", "android-arm64": "aarch64-linux-gnu-g++"}
QEMU = "qemu-aarch64-static"
DTYPES = {
    "uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4,
    "float16": 5, "float32": 6, "float64": 7, "bool": 11,
}  # fmt: skip
_NUMBERS = {number: np.dtype(name) for name, number in DTYPES.items()}

_NEUTRAL = 0x6FFF0001
"""A tag of the dynamic section that nobody reads."""
_NEEDED = 1
_VERSIONS = {0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF}


class Missing(Exception):
    """Something that this computer lacks, and how to get it."""


@dataclass(frozen=True)
class AndroidLibrary:
    """The library of one processor, and the words that run its runner."""

    name: str
    command: tuple[str, ...]

    def operators(self) -> frozenset[str]:
        """Names of the operators that it has, without those of delegates."""
        return frozenset(self._run("--kernels").decode().split())

    def run(self, pte: bytes, inputs: Arrays, times: int = 0) -> Arrays:
        """METHOD/out0, METHOD/after0 and so on, of arrays METHOD/in0 and so on; where `times` is given, after
        so many runs on one thread. Raises RuntimeError.
        """
        with tempfile.TemporaryDirectory(prefix="crowdlearn-") as folder:
            program, given, found = (Path(folder, name) for name in ("program.pte", "in", "out"))
            program.write_bytes(pte)
            methods: dict[str, list[np.ndarray]] = {}
            for name in inputs:
                methods.setdefault(name.partition("/")[0], [])
            for method, arrays in methods.items():
                count = sum(name.partition("/")[0] == method for name in inputs)
                arrays += [inputs[f"{method}/in{number}"] for number in range(count)]
            given.write_bytes(_encode(methods))
            self._run(str(program), str(given), str(found), *([str(times)] if times else []))
            return _decode(found.read_bytes(), methods)

    def _run(self, *arguments: str) -> bytes:
        done = subprocess.run([*self.command, *arguments], capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stderr.decode(errors='replace').strip()[-500:]}")
        return done.stdout


def android_library(name: str, cache: Path | None = None) -> AndroidLibrary:
    """The library of that name, fetched and made ready once in `cache`. Raises Missing."""
    compiler = shutil.which(COMPILERS[name])
    if compiler is None:
        package = "g++" if name == "android-x86_64" else "g++-aarch64-linux-gnu"
        raise Missing(f"no {COMPILERS[name]}: apt-get install {package}")
    emulator = shutil.which(QEMU) if name == "android-arm64" else ""
    if emulator is None:
        raise Missing(f"no {QEMU}: apt-get install qemu-user-static")
    folder = (cache or cache_home() / "android") / name
    sources = b"".join(path.read_bytes() for path in sorted(NATIVE.iterdir()))
    runner = folder / f"runner-{hashlib.sha256(sources).hexdigest()[:16]}"
    with turn(folder / "library"):
        if not runner.exists():
            archive = fetch_package(PACKAGE, VERSION, SHA512, folder.parent)
            _unpack(archive, LIBRARIES[name], folder)
            _compile(compiler, folder, runner)
    if emulator:
        return AndroidLibrary(name, (emulator, "-L", "/usr/aarch64-linux-gnu", str(runner)))
    return AndroidLibrary(name, (str(runner),))


def fetch_package(package: str, version: str, sha512: str, folder: Path) -> Path:
    """The archive of an npm package of that hash, kept in a folder. Raises Missing."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{package.replace('@', '').replace('/', '-')}-{version}.tgz"
    with turn(path):
        return _fetched(package, version, sha512, path)


def _fetched(package: str, version: str, sha512: str, path: Path) -> Path:
    folder = path.parent
    if not path.exists() or _sha512(path) != sha512:
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("no npm, which fetches Android's library: apt-get install npm")
        done = subprocess.run(
            [npm, "pack", f"{package}@{version}", "--silent", "--pack-destination", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode or not path.exists():
            raise Missing(f"{package} {version} cannot be fetched: {done.stderr.strip()[-300:]}")
        if _sha512(path) != sha512:
            path.unlink()
            raise Missing(f"{package} {version} was fetched and is not what is pinned")
    return path


def _sha512(path: Path) -> str:
    with path.open("rb") as file:
        return base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()


def _unpack(package: Path, abi: str, folder: Path) -> None:
    wanted = f"package/third-party/android/libs/executorch/{abi}/libexecutorch.so"
    with tarfile.open(package) as tar:
        for member in tar:
            inner = member.name.removeprefix("package/third-party/")
            if member.isfile() and inner.startswith("include/") and not inner.startswith("include/opencv2"):
                tar.extract(member, folder, filter="data")
        source = tar.extractfile(wanted)
        if source is None:
            raise Missing(f"{package.name} has no library for {abi}")
        (folder / "libexecutorch_jni.so").write_bytes(for_glibc(source.read()))


def for_glibc(content: bytes) -> bytes:
    """An Android library without the names of Android's libraries, and without their symbols' versions."""
    changed = bytearray(content)
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for number in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", content, table + number * size)
        if kind != 2:
            continue
        for at in range(offset, offset + length, 16):
            (tag,) = struct.unpack_from("<Q", content, at)
            if tag == _NEEDED or tag in _VERSIONS:
                struct.pack_into("<Q", changed, at, _NEUTRAL)
    return bytes(changed)


def _compile(compiler: str, folder: Path, runner: Path) -> None:
    library = folder / "libexecutorch_jni.so"
    java = folder / "java.s"
    java.write_text(_zeroes(library))
    include = folder / "package/third-party/include"
    objects = []
    for source, options in (
        (NATIVE / "bionic.c", ["-x", "c"]),
        (java, ["-x", "assembler"]),
        (NATIVE / "runner.cpp", ["-x", "c++", "-std=c++17", "-DC10_USING_CUSTOM_GENERATED_MACROS"]),
    ):
        target = folder / f"{source.stem}.o"
        paths = [f"-I{include}", f"-I{include}/executorch/runtime/core/portable_type/c10"]
        build([compiler, *options, "-O1", "-fPIC", *paths, "-c", str(source), "-o", str(target)])
        objects.append(str(target))
    link = ["-rdynamic", "-Wl,--allow-shlib-undefined", f"-Wl,-rpath,{folder}", "-ldl", "-lm", "-lpthread"]
    part = runner.with_name(f"{runner.name}.part")
    build([compiler, *objects, str(library), "-o", str(part), *link])
    part.replace(runner)


def build(command: list[str]) -> None:
    """Run a compiler. Raises RuntimeError with what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def _zeroes(library: Path) -> str:
    """Assembler that defines what the library wants of Java's side, which no program here calls."""
    output = subprocess.run(
        ["nm", "-D", "--undefined-only", str(library)], capture_output=True, text=True, check=True
    )
    names = [line.split()[-1] for line in output.stdout.splitlines()]
    wanted = [name for name in names if "8facebook3jni" in name]
    lines = [f".globl {name}\n{name}: .quad 0" for name in wanted]
    return ".data\n" + "\n".join(lines) + '\n.section .note.GNU-stack,"",%progbits\n'


def _encode(methods: Mapping[str, list[np.ndarray]]) -> bytes:
    out = io.BytesIO()

    def put(*numbers: int) -> None:
        out.write(struct.pack(f"<{len(numbers)}i", *numbers))

    put(len(methods))
    for name, arrays in methods.items():
        put(len(name.encode()))
        out.write(name.encode())
        put(len(arrays))
        for array in arrays:
            put(DTYPES[array.dtype.name], array.ndim, *array.shape, array.nbytes)
            out.write(array.tobytes())
    return out.getvalue()


def _decode(content: bytes, methods: Mapping[str, list[np.ndarray]]) -> Arrays:
    source = io.BytesIO(content)
    found: Arrays = {}

    def number() -> int:
        return int(struct.unpack("<i", source.read(4))[0])

    def array() -> np.ndarray:
        dtype, rank = _NUMBERS[number()], number()
        shape = [number() for _ in range(rank)]
        return np.frombuffer(source.read(number()), dtype).reshape(shape)

    for name, arrays in methods.items():
        for index in range(number()):
            found[f"{name}/out{index}"] = array()
        for index in range(len(arrays)):
            found[f"{name}/after{index}"] = array()
    return found
