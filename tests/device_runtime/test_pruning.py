"""Programs and nameless files that a device keeps are bounded by number, age and size."""

import os
import time
from pathlib import Path

import pytest
from crowdlearn_device.state import pruning
from crowdlearn_device.state.pruning import DAY_SECONDS, prune_programs


def aged(path: Path, days: float, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = time.time() - days * DAY_SECONDS
    os.utime(path, (then, then))
    return path


def test_what_is_old_or_too_much_goes_and_what_was_used_last_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pruning, "MAX_FILES", 3)
    monkeypatch.setattr(pruning, "MAX_BYTES", 100)
    files = [aged(tmp_path / "programs" / f"{n}.pte", days) for n, days in enumerate((0, 1, 2, 3, 4))]
    large = aged(tmp_path / "programs" / "large.pte", 0.5, 1000)
    ancient = aged(tmp_path / "programs" / "ancient.json", 1000)
    caplog.set_level("INFO")
    prune_programs(tmp_path)
    assert [path.exists() for path in files] == [True, True, False, False, False]
    assert not large.exists()
    assert not ancient.exists()
    assert "5 files of programs are removed; 2 of 20 bytes are kept" in caplog.text


def test_the_store_keeps_what_has_a_name(tmp_path: Path) -> None:
    named, nameless = aged(tmp_path / "store" / "a", 1000), aged(tmp_path / "store" / "b", 1000)
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "a.pte").symlink_to("../store/a")  # a name that was given just now
    prune_programs(tmp_path)
    assert named.exists()
    assert not nameless.exists()
    assert (tmp_path / "programs" / "a.pte").read_bytes()


def test_links_are_not_followed_out_of_the_home(tmp_path: Path) -> None:
    outside = aged(tmp_path / "outside" / "file", 1000)
    home = tmp_path / "home"
    home.mkdir()
    (home / "store").symlink_to(outside.parent)
    (home / "programs").symlink_to(outside.parent)
    prune_programs(home)
    assert outside.exists()
