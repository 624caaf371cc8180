"""Functions of a user's own code, by name: file.py:function, or module:function."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def imported(reference: str) -> Any:
    """Return the object of this name. Importing runs a user's code, which may raise anything."""
    module, _, name = reference.rpartition(":")
    found = import_file(Path(module)) if module.endswith(".py") else importlib.import_module(module)
    return getattr(found, name)


def import_file(path: Path) -> ModuleType:
    """Import the Python file at `path`, anew each time. Raises ImportError if it is none, and whatever it
    raises.
    """
    name = f"_crowdlearn_user {path.resolve()}"  # dataclasses look their module up; no import finds it
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
