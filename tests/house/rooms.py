"""The rooms of the product: modules by folder, circles between folders, and what benchmarks import past the
front door.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = {
    "crowdlearn_device": Path("device_runtime/crowdlearn_device"),
    "crowdlearn_export": Path("export/crowdlearn_export"),
    "crowdlearn_host": Path("host/crowdlearn_host"),
    "crowdlearn": Path("host/crowdlearn"),
}
"""Folders of the packages, from the root of the repository."""

MOST_PAST = 1
"""Modules of the host that a benchmark imports besides the front door."""

Rooms = Mapping[str, set[str]]
"""The rooms that each room imports, as dotted names."""


def modules(root: Path) -> dict[str, Path]:
    """Return the files of all modules by dotted name."""
    found = {}
    for folder in PACKAGES.values():
        for path in sorted((root / folder).rglob("*.py")):
            if path.stem.endswith("_pb2"):
                continue
            parts = path.relative_to(root / folder.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def sizes(root: Path) -> dict[str, int]:
    """Return how many modules lie side by side in each folder."""
    counted: dict[str, int] = {}
    for name, path in modules(root).items():
        if path.name != "__init__.py":
            room = name.rpartition(".")[0]
            counted[room] = counted.get(room, 0) + 1
    return counted


def imports(path: Path, name: str) -> Iterator[str]:
    """Yield every module, or name in a module, that the file of the module `name` imports."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def arrows(root: Path) -> Rooms:
    """Return which rooms each room imports. A room's own parent and children are no other rooms."""
    known = modules(root)
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        room = _room(name, path)
        for imported in imports(path, name):
            target = next((each for each in _prefixes(imported) if each in known), None)
            if target is None:
                continue
            other = _room(target, known[target])
            if other != room and not _nested(room, other):
                found.setdefault(room, set()).add(other)
    return found


def circles(found: Rooms) -> list[list[str]]:
    """Return every set of rooms that import each other, directly or in turn (Tarjan, 1972)."""
    sys.setrecursionlimit(10_000)
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    told: list[list[str]] = []

    def visit(room: str) -> None:
        order[room] = low[room] = len(order)
        stack.append(room)
        for other in found.get(room, ()):
            if other not in order:
                visit(other)
                low[room] = min(low[room], low[other])
            elif other in stack:
                low[room] = min(low[room], order[other])
        if low[room] == order[room]:
            circle = []
            while not circle or circle[-1] != room:
                circle.append(stack.pop())
            if len(circle) > 1:
                told.append(sorted(circle))

    for room in list(found):
        if room not in order:
            visit(room)
    return told


def past_the_front_door(root: Path) -> dict[str, set[str]]:
    """Return the modules of the host that each benchmark imports besides `crowdlearn`."""
    found: dict[str, set[str]] = {}
    known = modules(root)
    for path in sorted((root / "benchmarks").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        for imported in imports(path, ".".join(parts)):
            target = next((each for each in _prefixes(imported) if each in known), None)
            if target is not None and target.startswith("crowdlearn_host"):
                found.setdefault(parts[1], set()).add(target)
    return found


def _room(name: str, path: Path) -> str:
    return name if path.name == "__init__.py" else name.rpartition(".")[0]


def _prefixes(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


def _nested(one: str, other: str) -> bool:
    return one.startswith(f"{other}.") or other.startswith(f"{one}.")
