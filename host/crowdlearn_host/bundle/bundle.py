"""Bundles on this computer: made once, and kept by what they are made of."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import crowdlearn_device

from crowdlearn_host.bundle.compiled import HERE, compiled
from crowdlearn_host.bundle.elf import is_elf, read_elf
from crowdlearn_host.bundle.packages import fetch_debian, fetch_wheels
from crowdlearn_host.bundle.pinned_packages import PinnedPackages
from crowdlearn_host.bundle.tree import LOADER, Files, SystemRoot, python_tree, read_folder, read_packages
from crowdlearn_host.common.files import turn
from crowdlearn_host.errors import FleetError

ABIS = {"arm64-v8a": "arm64", "x86_64": "x86_64"}
"""Android's names of the processors that there are bundles for, and the machine in their programs."""

LISTING = "files.sha256"
"""The hash of every other file of an archive, as `sha256sum -c` reads it. Its own hash names the archive."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Archive:
    """A folder for the phone as a .tar.gz of `packed` bytes, on the phone `unpacked`; `digest` names it.

    `page_size` is the largest page, in bytes, of a kernel that can load its libraries; 0 if it has none.
    """

    path: Path
    digest: str
    files: int
    packed: int
    unpacked: int
    page_size: int


@dataclass(frozen=True)
class Bundle:
    """The device runtime for phones of an ABI.

    `python` changes with the pinned packages, `device` with our own code.
    """

    abi: str
    python: Archive
    device: Archive
    python_version: str

    @property
    def size(self) -> int:
        """Return bytes on the phone."""
        return self.python.unpacked + self.device.unpacked

    def command(self, folder: str) -> list[str]:
        """Return the words before the arguments of `crowdlearn-device`, where `folder` holds both archives
        unpacked, each by its `digest`.

        -I: no environment variable and no folder of the phone adds modules.
        """
        python, device = f"{folder}/{self.python.digest}", f"{folder}/{self.device.digest}"
        program = f"{python}/bin/python{self.python_version}"
        return [f"{python}/{LOADER}", "--library-path", f"{python}/lib", program, "-I", device]


def make_bundle(
    abi: str,
    cache: Path,
    *,
    pinned: PinnedPackages | None = None,
    mirror: str | None = None,
    root: Path | None = None,
    tell: Tell = lambda text: None,
) -> Bundle:
    """Return the bundle for an ABI, made in `cache` of wheels and Debian's packages, or of a root file system
    `root` that holds Python. What is there already is made no second time.

    Raises FleetError for another ABI, and where packages cannot be had.
    """
    if abi not in ABIS:
        raise FleetError(f"there is no bundle for {abi or 'an unknown ABI'}; there are: {', '.join(ABIS)}")
    packages = _Packages(pinned or PinnedPackages.load(), cache, mirror)
    folder = cache / abi
    folder.mkdir(parents=True, exist_ok=True)
    python = packages.pinned.python

    def interpreter() -> Files:
        if root is not None and abi == HERE:
            return python_tree(read_folder(root), [], python, ABIS[HERE])
        with suppress(*(() if root is None else (FleetError,))):  # without apt there is the named root alone
            if HERE:
                return python_tree(packages.system(HERE), [], python, ABIS[HERE])
        tell("modules are not compiled, for this computer runs no such Python; a first start takes longer")
        return {}

    def with_byte_code(files: Files) -> Files:
        own = interpreter()
        return compiled(files, own, python) if own else files

    def tree() -> Files:
        tell(f"making the bundle for {abi} of {root or 'packages of Debian'} and wheels")
        system = read_folder(root) if root else packages.system(abi)
        files = python_tree(system, packages.wheels(abi), python, ABIS[abi])
        tell("compiling its modules")
        return with_byte_code(files)

    sources = _device_files()
    with turn(folder / "bundle"):  # several phones of a run may ask for it at once
        made_of = f"{packages.pinned.to_json()} {root}"
        device = f"{python} {_listing(sources).decode()}"
        return Bundle(
            abi=abi,
            python=_kept(folder, f"python-{abi}", made_of, tree, anew=root is not None),
            device=_kept(folder, "device", device, lambda: with_byte_code(sources)),
            python_version=python,
        )


@dataclass(frozen=True)
class _Packages:
    """The parts of bundles, fetched when it is asked for."""

    pinned: PinnedPackages
    cache: Path
    mirror: str | None

    def system(self, abi: str) -> SystemRoot:
        return read_packages(fetch_debian(self.pinned, abi, self.cache, self.mirror))

    def wheels(self, abi: str) -> list[Path]:
        return fetch_wheels(self.pinned, abi, self.cache)


def _kept(folder: Path, name: str, made_of: str, make: Callable[[], Files], *, anew: bool = False) -> Archive:
    """Return the archive that `make` gave for these ingredients once, or gives now."""
    path = folder / f"{name}-of-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.json"
    if not anew:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text())
            archive = Archive(**{**content, "path": folder / content["path"]})
            if archive.path.stat().st_size == archive.packed:
                return archive
    archive = pack(make(), folder, name)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps({**asdict(archive), "path": archive.path.name}))
    part.replace(path)
    return archive


def _device_files() -> Files:
    package = Path(crowdlearn_device.__file__).parent
    files = {
        f"{package.name}/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*.py"))
    }
    return {
        **files,
        "__main__.py": b"import sys\n\nfrom crowdlearn_device.cli import main\n\nsys.exit(main())\n",
    }


def _listing(files: Files) -> bytes:
    lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in sorted(files.items())]
    return "".join(lines).encode()


def pack(files: Files, folder: Path, name: str) -> Archive:
    """Return the files as an archive in a folder of this computer."""
    listing = _listing(files)
    digest = hashlib.sha256(listing).hexdigest()
    path = folder / f"{name}-{digest[:16]}.tar.gz"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with (
        gzip.GzipFile(part, "wb", compresslevel=6, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for inner, content in sorted({**files, LISTING: listing}.items()):
            entry = tarfile.TarInfo(inner)
            entry.size, entry.mode = len(content), 0o755 if is_elf(content) else 0o644
            tar.addfile(entry, io.BytesIO(content))
    part.replace(path)
    return Archive(
        path=path,
        digest=digest,
        files=len(files),
        packed=path.stat().st_size,
        unpacked=len(listing) + sum(len(content) for content in files.values()),
        page_size=min((read_elf(x).alignment for x in files.values() if is_elf(x)), default=0),
    )
