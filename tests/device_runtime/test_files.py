"""A file is replaced by complete content or stays as it was, and what goes wrong names it."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.data.dataset import load_samples
from crowdlearn_device.errors import DataError
from crowdlearn_device.platform.files import naming, not_to_read, not_to_write, replacing, write_atomically

LIMIT = 1 << 16


@contextmanager
def nearly_full_disk() -> Iterator[None]:
    """No file of this process grows beyond LIMIT bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"old")
    with nearly_full_disk(), pytest.raises(OSError, match="model\\.pte") as full:
        write_atomically(path, bytes(2 * LIMIT))
    assert full.value.filename == str(path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_an_error_of_what_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


def test_a_file_is_on_disk_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("names" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def replaced(*paths: Path) -> None:
        done.append("replaced")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(tmp_path / "state", b"new")
    assert done == ["content", "replaced", "names"]


def test_a_full_disk_is_told_with_the_name_of_what_grew(tmp_path: Path) -> None:
    path = tmp_path / "metrics"
    with nearly_full_disk(), pytest.raises(OSError, match="metrics"), naming(path), path.open("ab") as file:
        file.write(bytes(2 * LIMIT))


def test_an_array_that_the_disk_has_no_room_for_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "inputs.npy"
    with nearly_full_disk(), pytest.raises(OSError, match=r"No space left.*inputs\.npy"), naming(path):
        np.save(path, np.zeros(1 << 16))


def test_permissions_stay_and_links_are_followed(tmp_path: Path) -> None:
    path, link = tmp_path / "secret", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to("secret")
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_atomically(path, b"private", private=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(path, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert not_to_write(Path(os.devnull), force=False) == ""


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "\u00e4" * 127):
        write_atomically(tmp_path / name, b"content")
        assert (tmp_path / name).read_bytes() == b"content"


def test_what_is_said_of_a_file_that_is_there_is_true(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"of this command or not")
    assert "not as this command wrote it" not in not_to_write(path, force=False)
    assert "not as this command wrote it" in not_to_write(path, force=False, is_own=lambda text: False)
    assert not_to_write(path, force=False, is_own=lambda text: True) == ""
    assert not_to_write(path, force=True) == ""


def test_a_pipe_that_nobody_reads_keeps_nobody(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert "is a pipe that nothing reads" in not_to_write(path, force=False)
    with pytest.raises(OSError, match="pipe"):
        write_atomically(path, b"lost")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/out.onnx", "is a file, and"),
        ("file/deeper/out.onnx", "is a file, and"),
        ("folder", "is a folder"),
        ("/proc/out.onnx", "cannot be written"),
        ("/dev/tty", "cannot be written"),
    ],
)
def test_where_nothing_can_be_written_is_told_before_the_work(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    if name == "/dev/tty" and not_to_write(Path(name), force=False) == "":
        pytest.skip("this process has a terminal")
    assert why in not_to_write(tmp_path / name, force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_may_have_no_end_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "whole").write_bytes(bytes(2 << 20))
    assert "pipe or device" in not_to_read(tmp_path / "pipe", 1 << 20)
    assert "pipe or device" in not_to_read(Path("/dev/zero"), 1 << 20)
    assert "folder" in not_to_read(tmp_path, 1 << 20)
    assert not_to_read(tmp_path / "whole", 1 << 20) == "has more than 1 MiB"
    assert not_to_read(tmp_path / "whole", 2 << 20) == ""
    with pytest.raises(DataError, match="pipe or device"):
        load_samples(tmp_path / "pipe")
