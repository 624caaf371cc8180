"""The folders in which crowdlearn keeps what outlives a command (XDG Base Directory Specification)."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def default_home() -> Path:
    """Return the folder for state: virtual phones, the host's certificate, enrolled devices.

    CROWDLEARN_HOME if it is set, else ~/.crowdlearn if it exists, else crowdlearn in XDG_STATE_HOME
    (~/.local/state). It is made if it is missing, and its user's alone: keys and tokens lie in it.
    """
    home = _one_for_all() or _xdg("XDG_STATE_HOME", ".local/state")
    with suppress(OSError):  # whoever writes to it is told
        make_private(home)
    return home


def make_private(folder: Path) -> None:
    """Have a folder that its user alone can look into: made if it is missing, else closed to others."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        folder.chmod(found.st_mode & 0o700)


def cache_home() -> Path:
    """Return the folder for what can be made again: compiled programs, and what memory layers need.

    As `default_home`, but in XDG_CACHE_HOME (~/.cache).
    """
    cache = _one_for_all() or _xdg("XDG_CACHE_HOME", ".cache")
    with suppress(OSError):  # whoever writes to it is told
        make_private(cache)
    return cache


def _one_for_all() -> Path | None:
    if chosen := os.environ.get("CROWDLEARN_HOME"):
        return Path(chosen)
    before = Path.home() / ".crowdlearn"  # where everything lay before there were two folders
    return before if before.is_dir() else None


def _xdg(variable: str, usual: str) -> Path:
    named = Path(os.environ.get(variable, ""))
    return (named if named.is_absolute() else Path.home() / usual) / "crowdlearn"
