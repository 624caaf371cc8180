"""The files of a Python that needs nothing of the system it runs on, chosen from packages."""

import io
import os
import posixpath
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crowdlearn_host.bundle.elf import NotElf, is_elf, read_elf
from crowdlearn_host.errors import FleetError

Files = Mapping[str, bytes]
"""Content by path; what is an ELF program or library may be executed."""

LOADER = "crowdlearn-device"
"""The name of the dynamic loader in a bundle: a phone lists the process by it."""

_LEFT_OUT = frozenset(
    (
        *("test", "tests", "_examples", "include", "__pycache__", "compiler", "f2py"),
        *(
            "idlelib",
            "tkinter",
            "turtledemo",
            "ensurepip",
            "pydoc_data",
            "sqlite3",
            "curses",
            "dbm",
            "xmlrpc",
        ),
        *("venv", "lib2to3", "wsgiref"),
    )
)
"""Folders that no code of the device runtime imports."""
_ENDINGS_LEFT_OUT = (".pyi", ".a", ".h", ".pxd", ".pyx", ".lib", ".exe", ".c")
_TEST_MODULES = ("_test", "_xxtest", "xxlimited", "xxsubtype", "_ctypes_test")


@dataclass(frozen=True)
class SystemRoot:
    """A root file system of Debian's layout: files, and symbolic links by their own path."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def content(self, path: str) -> bytes | None:
        """Return the content of the file at a path, through links; None if there is none."""
        for _ in range(16):
            if path in self.files:
                return self.files[path]
            if path not in self.links:
                return None
            target = self.links[path]
            joined = target if target.startswith("/") else posixpath.join(posixpath.dirname(path), target)
            path = posixpath.normpath(joined.lstrip("/"))
        return None


def read_packages(debs: Sequence[Path]) -> SystemRoot:
    """Return the root that Debian packages make, unpacked; none of their scripts is run. Raises
    FleetError.
    """
    root = SystemRoot()
    for deb in debs:
        unpacked = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(deb)],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if unpacked.returncode:
            raise FleetError(f"{deb.name} cannot be unpacked: {unpacked.stderr.decode(errors='replace')}")
        with tarfile.open(fileobj=io.BytesIO(unpacked.stdout)) as archive:
            for member in archive:
                path = posixpath.normpath(member.name)
                if member.issym():
                    root.links[path] = member.linkname
                elif member.isfile() or member.islnk():
                    source = archive.extractfile(member)
                    root.files[path] = source.read() if source else b""
    return root


def read_folder(folder: Path) -> SystemRoot:
    """Return the root in a folder of this computer: usr/bin/python3.13, usr/lib/... Raises FleetError."""
    root = SystemRoot()
    for place, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(place, name)
            inner = path.relative_to(folder).as_posix()
            if path.is_symlink():
                root.links[inner] = os.readlink(path)
            elif path.is_file():
                root.files[inner] = path.read_bytes()
    if not root.files:
        raise FleetError(f"{folder} holds no files: name a root file system with usr/bin/python3")
    return root


def python_tree(root: SystemRoot, wheels: Sequence[Path], python: str, machine: str) -> Files:
    """Return paths of a bundle: the loader, bin/pythonX.Y, lib/ with the libraries that are needed and no
    others, lib/pythonX.Y with the standard library and the wheels, and licenses/. Raises FleetError.
    """
    name = f"python{python}"
    program = root.content(f"usr/bin/{name}")
    if program is None:
        raise FleetError(f"there is no usr/bin/{name} in what the bundle is to be made of")
    chosen = {f"bin/{name}": program, **_standard_library(root, name)}
    for wheel in wheels:
        chosen.update(_wheel_files(wheel, f"lib/{name}/dist-packages"))
    chosen.update(_licences(root))
    libraries = _libraries(root)
    _drop_unloadable(chosen, libraries, f"lib/{name}/lib-dynload/")
    for soname, content in _needed(chosen, libraries):
        chosen[LOADER if soname.startswith("ld-linux") else f"lib/{soname}"] = content
    if LOADER not in chosen:
        raise FleetError("no dynamic loader (ld-linux-*.so) is in what the bundle is to be made of")
    for path, content in chosen.items():
        if is_elf(content) and read_elf(content).machine != machine:
            raise FleetError(f"{path} is for {read_elf(content).machine or 'another machine'}, not {machine}")
    return chosen


def _standard_library(root: SystemRoot, name: str) -> dict[str, bytes]:
    prefix = f"usr/lib/{name}/"
    found = {}
    for path in (*root.files, *root.links):
        inner = path.removeprefix(prefix)
        if inner == path or not _wanted(inner) or inner.startswith("config-"):
            continue
        if (content := root.content(path)) is not None and inner != "sitecustomize.py":
            found[f"lib/{name}/{inner}"] = content
    return found


def _wheel_files(wheel: Path, target: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            if not entry.is_dir() and _wanted(entry.filename):
                yield f"{target}/{posixpath.normpath(entry.filename)}", archive.read(entry)


def _licences(root: SystemRoot) -> Iterator[tuple[str, bytes]]:
    for path in (*root.files, *root.links):
        parts = path.split("/")
        content = root.content(path) if parts[:3] == ["usr", "share", "doc"] else None
        if content is not None and parts[-1] == "copyright":
            yield f"licenses/{parts[3]}", content


def _wanted(path: str) -> bool:
    parts = path.split("/")
    name = parts[-1]
    if name.endswith(_ENDINGS_LEFT_OUT) or name.startswith(_TEST_MODULES) or "_tests.cpython" in name:
        return False
    return ".." not in parts and not _LEFT_OUT & set(parts[:-1])


def _libraries(root: SystemRoot) -> dict[str, bytes]:
    """Return shared libraries of the system's folders by file name."""
    found: dict[str, bytes] = {}
    for path in sorted((*root.files, *root.links)):
        folder, name = posixpath.split(path)
        inner = folder.removeprefix("usr/")
        if ".so" in name and (inner == "lib" or (inner.startswith("lib/") and inner.endswith("-linux-gnu"))):
            content = root.content(path)
            if content is not None and is_elf(content):
                found[name] = content
    return found


def _drop_unloadable(chosen: dict[str, bytes], libraries: Files, folder: str) -> None:
    """Drop extension modules whose libraries are not there (readline, sqlite): the device runtime needs
    none.
    """
    for path in [path for path in chosen if path.startswith(folder)]:
        if not set(read_elf(chosen[path]).needed) <= set(libraries):
            del chosen[path]


def _needed(chosen: Files, libraries: Files) -> Iterable[tuple[str, bytes]]:
    brought = {posixpath.basename(path) for path in chosen}  # by the wheels themselves
    found: dict[str, bytes] = {}
    todo = [content for content in chosen.values() if is_elf(content)]
    while todo:
        try:
            wanted = read_elf(todo.pop()).needed
        except NotElf as error:
            raise FleetError(f"a library of the bundle is damaged: {error}") from error
        for name in wanted:
            if name in found or name in brought:
                continue
            if name not in libraries:
                raise FleetError(f"the library {name} is not in what the bundle is to be made of")
            found[name] = libraries[name]
            todo.append(libraries[name])
    return found.items()
