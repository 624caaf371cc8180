"""Functions of a user's own code, by name: file.py:function, or module:function."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any


@contextmanager
def staying() -> Iterator[None]:
    """Let a user's code run, and raise RuntimeError if it would end the program."""
    try:
        yield
    except SystemExit as exit:
        raise RuntimeError(f"its code ends the program (SystemExit: {exit.code})") from exit


def imported(reference: str) -> Any:
    """Return the object of this name. Importing runs a user's code, which may raise anything."""
    module, _, name = reference.rpartition(":")
    with staying():
        found = import_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    return getattr(found, name)


def import_file(path: Path) -> ModuleType:
    """Import the Python file at `path`, anew each time. Raises ImportError if it is none, and whatever it
    raises.
    """
    # Dataclasses look their module up by this name; no import finds it.
    name = f"_crowdlearn_user {os.path.realpath(path)}"
    if path.exists() and not path.is_file():
        raise ImportError(f"{path} is no file")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
