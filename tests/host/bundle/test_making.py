"""Bundles of real packages: whole, small enough, for pages of 16 KiB, and made once."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from crowdlearn_host.bundle import ABIS, Bundle, make_bundle
from crowdlearn_host.bundle.bundle import LISTING
from crowdlearn_host.bundle.compiled import HERE
from crowdlearn_host.bundle.packages import DEBIAN
from crowdlearn_host.bundle.pinned_packages import DEFAULT, PinnedPackages
from crowdlearn_host.bundle.tree import LOADER
from crowdlearn_host.errors import FleetError

LARGEST = 120e6
"""Bytes that a bundle may take of a phone."""


def test_a_bundle_fits_a_phone_and_its_pages(arm_bundle: Bundle) -> None:
    assert arm_bundle.size <= LARGEST
    assert arm_bundle.python.page_size >= 1 << 14


def test_every_file_has_the_hash_that_the_listing_tells(x86_bundle: Bundle) -> None:
    for archive in (x86_bundle.python, x86_bundle.device):
        with tarfile.open(archive.path) as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        listing = found.pop(LISTING)
        assert hashlib.sha256(listing).hexdigest() == archive.digest
        rows = dict(reversed(line.split("  ", 1)) for line in listing.decode().splitlines())
        assert rows == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
        assert archive.files == len(found)


def test_it_holds_what_the_device_needs_its_licences_and_no_torch(x86_bundle: Bundle) -> None:
    with tarfile.open(x86_bundle.python.path) as tar:
        names = tar.getnames()
    assert {LOADER, "bin/python3.13", "licenses/libc6", "licenses/python3.13-minimal"} <= set(names)
    assert any(name.endswith("executorch_numpy_runtime/_core.abi3.so") for name in names)
    assert not [name for name in names if "torch/" in name or "/tests/" in name]


def test_what_is_there_is_not_made_again(x86_bundle: Bundle, bundles: Path) -> None:
    told: list[str] = []
    assert make_bundle("x86_64", bundles, tell=told.append) == x86_bundle
    assert not told


def test_an_abi_without_a_bundle_is_told(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="no bundle for armeabi-v7a; there are: arm64-v8a, x86_64"):
        make_bundle("armeabi-v7a", tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": 1}', '{"debian": [{}], "wheels": []}'])
def test_a_file_that_holds_no_pins_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "pinned_packages.json").write_text(text)
    with pytest.raises(FleetError, match="does not hold the pinned packages"):
        PinnedPackages.load(tmp_path / "pinned_packages.json")


def test_every_package_is_pinned_for_both_processors() -> None:
    pinned = PinnedPackages.load()
    assert pinned.to_json() == DEFAULT.read_text()
    for pin in (*pinned.debian, *pinned.wheels):
        hashes = [
            pin.hash_for(name)
            for name in (("arm64", "amd64") if pin in pinned.debian else ("aarch64", "x86_64"))
        ]
        assert all(len(each) == 64 for each in hashes), pin.name


def test_a_root_without_python_is_told(tmp_path: Path, bundles: Path, x86_bundle: Bundle) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/usr/bin/true").write_bytes(b"")
    with pytest.raises(FleetError, match=r"no usr/bin/python3\.13"):
        make_bundle("x86_64", bundles, root=tmp_path / "root")
    with pytest.raises(FleetError, match="holds no files"):
        make_bundle("x86_64", bundles, root=tmp_path / "absent")


@pytest.mark.nightly
@pytest.mark.parametrize("abi", ABIS)
def test_a_root_that_its_user_names_makes_a_bundle_without_apt(
    abi: str,
    bundles: Path,
    x86_bundle: Bundle,
    arm_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in (bundles / "debian" / DEBIAN[abi]).glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(tmp_path / "root")], check=True)
    shutil.copytree(bundles / "wheels", tmp_path / "cache/wheels")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    told: list[str] = []
    made = make_bundle(abi, tmp_path / "cache", root=tmp_path / "root", tell=told.append)
    usual = x86_bundle if abi == "x86_64" else arm_bundle
    assert (made.python_version, made.python.page_size) == (usual.python_version, usual.python.page_size)
    assert any("not compiled" in line for line in told) == (abi != HERE)
    with tarfile.open(made.python.path) as tar:
        assert {LOADER, "bin/python3.13"} <= set(tar.getnames())


def test_both_processors_are_known() -> None:
    assert set(ABIS) == {"arm64-v8a", "x86_64"}
