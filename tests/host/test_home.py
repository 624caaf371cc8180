"""State and caches lie where the system wants them, and where they lay before."""

from __future__ import annotations

from pathlib import Path

import pytest
from crowdlearn_host.common.home import cache_home, default_home


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("CROWDLEARN_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_new_user_has_them_where_the_system_wants_them(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_home() == user / ".local/state/crowdlearn"
    assert cache_home() == user / ".cache/crowdlearn"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert (default_home(), cache_home()) == (Path("/state/crowdlearn"), Path("/cache/crowdlearn"))


def test_a_relative_folder_of_the_system_does_not_count(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert cache_home() == user / ".cache/crowdlearn"


def test_a_folder_of_before_is_kept(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    (user / ".crowdlearn").mkdir()
    assert default_home() == cache_home() == user / ".crowdlearn"


def test_a_folder_that_is_named_is_both(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user / ".crowdlearn").mkdir()
    monkeypatch.setenv("CROWDLEARN_HOME", "/mine")
    assert default_home() == cache_home() == Path("/mine")
