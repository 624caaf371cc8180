"""Debian's packages and PyPI's wheels for another machine, fetched by the ordinary clients, checked by hash.

apt works in a state folder of its own: nothing of this computer's packages is changed, and only the addresses
of its mirrors and Debian's keys are read.
"""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crowdlearn_host.bundle.pinned_packages import PinnedPackage, PinnedPackages
from crowdlearn_host.errors import FleetError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBIAN = {"arm64-v8a": "arm64", "x86_64": "amd64"}
WHEELS = {"arm64-v8a": "aarch64", "x86_64": "x86_64"}
GLIBC = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def fetch_debian(pinned: PinnedPackages, abi: str, cache: Path, mirror: str | None) -> list[Path]:
    """Return the pinned .deb files. Raises FleetError if one cannot be had, or has another content."""
    folder = cache / "debian" / DEBIAN[abi]
    folder.mkdir(parents=True, exist_ok=True)
    present = _by_hash(folder)
    missing = [pin for pin in pinned.debian if pin.hash_for(DEBIAN[abi]) not in present]
    if missing:
        apt = Apt(cache / "apt" / DEBIAN[abi], DEBIAN[abi], pinned.suite, mirror)
        apt.update()
        apt.download([f"{pin.name}={pin.version}" for pin in missing], folder)
        present = _by_hash(folder)
    return [_pinned(pin, pin.hash_for(DEBIAN[abi]), present) for pin in pinned.debian]


def fetch_wheels(pinned: PinnedPackages, abi: str, cache: Path) -> list[Path]:
    """Return the pinned wheels. Raises FleetError if one cannot be had, or has another content."""
    folder = cache / "wheels" / WHEELS[abi]
    folder.mkdir(parents=True, exist_ok=True)
    present = _by_hash(folder)
    missing = [pin for pin in pinned.wheels if pin.hash_for(WHEELS[abi]) not in present]
    if missing:
        _pip_download([f"{pin.name}=={pin.version}" for pin in missing], pinned.python, abi, folder)
        present = _by_hash(folder)
    return [_pinned(pin, pin.hash_for(WHEELS[abi]), present) for pin in pinned.wheels]


def repin(pinned: PinnedPackages, abis: Sequence[str], cache: Path, mirror: str | None) -> PinnedPackages:
    """Return the same packages pinned in the versions that Debian signs, and the indices have, today."""
    debian: dict[str, tuple[str, dict[str, str]]] = {}
    wheels: dict[str, tuple[str, dict[str, str]]] = {}
    for abi in abis:
        folder = _empty(cache / "repin" / abi)
        apt = Apt(cache / "apt" / DEBIAN[abi], DEBIAN[abi], pinned.suite, mirror)
        apt.update()
        apt.download([pin.name for pin in pinned.debian], folder)
        for path in folder.glob("*.deb"):
            name, version, _ = path.name.replace("%3a", ":").split("_")
            _note(debian, name, version, DEBIAN[abi], path)
        folder = _empty(folder)
        names = [f"{p.name}=={p.version}" if p.name in _OURS_TO_CHOOSE else p.name for p in pinned.wheels]
        _pip_download(names, pinned.python, abi, folder)
        for path in folder.glob("*.whl"):
            name, version, *_, platform = path.stem.split("-")
            _note(wheels, name, version, "any" if platform == "any" else WHEELS[abi], path)
    shutil.rmtree(cache / "repin")
    return replace(
        pinned,
        debian=tuple(PinnedPackage(p.name, *debian[p.name]) for p in pinned.debian),
        wheels=tuple(PinnedPackage(p.name, *wheels[p.name.replace("-", "_")]) for p in pinned.wheels),
    )


_OURS_TO_CHOOSE = {"executorch-numpy-runtime"}
"""Wheels whose version says which programs they read: it changes with executorch's, not with a new pin."""


class Apt:
    """The `apt` for another architecture and suite, with a state of its own in `state`."""

    def __init__(self, state: Path, architecture: str, suite: str, mirror: str | None) -> None:
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise FleetError(
                "Debian's packages are fetched with apt-get and dpkg-deb, which are not here; use a Debian "
                "machine, or give a root file system that holds Python with --root"
            )
        self._suite, self._mirror, self._state = suite, mirror, state
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        self._options = [
            f"-oDir::State={state}",
            f"-oDir::State::status={state / 'status'}",
            f"-oDir::Cache={state / 'cache'}",
            f"-oDir::Etc::sourcelist={state / 'sources.list'}",
            "-oDir::Etc::sourceparts=-",
            "-oDir::Etc::preferencesparts=-",
            f"-oAPT::Architecture={architecture}",
            f"-oAPT::Architectures={architecture}",
            "-oAPT::Sandbox::User=",
            "-oAcquire::Languages=none",
            "-oAcquire::Retries=3",
        ]

    def update(self) -> None:
        """Read the lists of the suite anew. Raises FleetError."""
        mirror = self._mirror or _mirror_of_this_computer()
        if not KEYRING.exists():
            raise FleetError(f"{KEYRING} is missing; install the package debian-archive-keyring")
        sources = f"deb [signed-by={KEYRING}] {mirror} {self._suite} main\n"
        (self._state / "sources.list").write_text(sources)
        _run(["apt-get", *self._options, "-qq", "update"], self._state, "reading Debian's package lists")

    def download(self, packages: Sequence[str], folder: Path) -> None:
        """Fetch packages, NAME or NAME=VERSION, into a folder. Raises FleetError."""
        try:
            _run(["apt-get", *self._options, "-qq", "download", *packages], folder, "fetching from Debian")
        except FleetError as error:
            raise FleetError(
                f"{error}; if Debian has newer versions by now, accept them with: crowdlearn bundle --repin"
            ) from error


def _mirror_of_this_computer() -> str:
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    output = _run(["apt-get", "indextargets", "--format", form], Path.cwd(), "asking apt for a mirror")
    for line in output.splitlines():
        origin, label, address = (line + "||").split("|")[:3]
        if origin == "Debian" and label == "Debian" and address:
            return address
    raise FleetError("apt of this computer knows no mirror of Debian; give one with --mirror")


def _pip_download(packages: Sequence[str], python: str, abi: str, folder: Path) -> None:
    platforms = [word for glibc in GLIBC for word in ("--platform", f"{glibc}_{WHEELS[abi]}")]
    options = ["--no-deps", "--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    command = [sys.executable, "-m", "pip", "download", "-q", *options, *platforms, "-d", str(folder)]
    _run([*command, *packages], folder, "fetching wheels")


def _run(command: Sequence[str], folder: Path, doing: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "ERROR"))]
        raise FleetError(f"{doing}: {' '.join(lines or done.stderr.splitlines()[-1:])}")
    return done.stdout


def _by_hash(folder: Path) -> dict[str, Path]:
    return {file_hash(path): path for path in sorted(folder.iterdir()) if path.is_file()}


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pinned(pin: PinnedPackage, sha256: str, present: Mapping[str, Path]) -> Path:
    if sha256 not in present:
        raise FleetError(
            f"{pin.name} {pin.version} was fetched and is not what is pinned (sha256 {sha256[:16]}...); "
            "accept what there is now with: crowdlearn bundle --repin"
        )
    return present[sha256]


def _note(
    found: dict[str, tuple[str, dict[str, str]]], name: str, version: str, kind: str, path: Path
) -> None:
    known = found.setdefault(name, (version, {}))
    if known[0] != version:
        raise FleetError(f"{name} has version {known[0]} and {version}, depending on the machine; try later")
    known[1][kind] = file_hash(path)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
