"""Files that a command is told to write: looked at before the work; those of other programs are not
replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from crowdlearn_device.platform.files import not_to_write

from crowdlearn_host.errors import ConfigError

Force = Annotated[bool, typer.Option("--force", help="Replace a file that this command did not write.")]


def apart(**files: Path | None) -> None:
    """See that no two of a command's files, by their options, are one: the later would replace the other.

    Raises ConfigError, naming both options.
    """
    named: dict[str, str] = {}
    for option, path in files.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        other = named.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ConfigError(f"--{other} and --{option} name one file, {path}; name two")


def claim(path: Path, *, force: bool, is_own: Callable[[str], bool] | None = None) -> None:
    """Make the folder of `path`, and see that nothing is lost by writing the file.

    Raises ConfigError if there is a file that `is_own` does not know by its text, unless `force`; OSError if
    none can be written.
    """
    if why := not_to_write(path, force=force, is_own=is_own):
        raise ConfigError(why)
