"""Folders that hold keys, tokens or a run are their user's alone, whichever command makes them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from crowdlearn_host.common.home import default_home, make_private
from crowdlearn_host.coordinator.storage.run_folder import RunFolder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_is_made_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROWDLEARN_HOME", str(tmp_path / "home"))
    assert mode(default_home()) == 0o700
    (tmp_path / "home").chmod(0o755)
    assert mode(default_home()) == 0o700


def test_a_run_folder_is_its_users_alone(tmp_path: Path) -> None:
    RunFolder(tmp_path / "runs" / "run", create=True).close()
    assert mode(tmp_path / "runs" / "run") == 0o700
    make_private(tmp_path / "other")
    assert mode(tmp_path / "other") == 0o700
