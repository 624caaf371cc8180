"""Modules whose names are imported when they are first used, since some take seconds."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def lazily(module: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` of a module that imports its names `if TYPE_CHECKING`.

    What type checkers see is what comes: each name is imported from there when it is first used.
    """
    homes = _imported(Path(file).read_text("utf-8"), module)

    def get(name: str) -> Any:
        if name not in homes:
            known = ", ".join(sorted(homes))
            raise AttributeError(f"module {module!r} has no attribute {name!r}; it has {known}")
        home, original = homes[name]
        value = getattr(import_module(home), original)
        setattr(sys.modules[module], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[module]), *homes})

    return get, names


def _imported(source: str, module: str) -> dict[str, tuple[str, str]]:
    """Return module and original name of each name that is imported under `if TYPE_CHECKING`."""
    package = sys.modules[module].__package__ or ""
    homes = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for each in node.body:
                if isinstance(each, ast.ImportFrom):
                    home = f"{package}.{each.module}" if each.level else str(each.module)
                    homes.update({name.asname or name.name: (home, name.name) for name in each.names})
    return homes
