"""Files that a command is told to write: looked at before the work, and nobody else's is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError

Force = Annotated[bool, typer.Option("--force", help="Replace a file that this command did not write.")]


def claim(path: Path, *, force: bool, is_own: Callable[[str], bool] = lambda text: False) -> None:
    """Make the folder of `path`, and see that nothing is lost by writing the file.

    Raises ConfigError where there is a file that, by its text, is not the command's own, unless `force`;
    OSError where none can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file in it")
    if path.is_file() and not force and not is_own(path.read_text("utf-8", errors="replace")):
        raise ConfigError(
            f"{path} is there already, and not as this command wrote it; "
            "name another file, or replace it with --force"
        )
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path} cannot be written; look at the folder's permissions")
