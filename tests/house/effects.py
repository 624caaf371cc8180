"""Effects that are lost: a function that yields effects does nothing unless they are taken."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

KINDS = ("Effects", "Decision")
"""The annotations of functions that yield effects."""


def yielding(sources: Iterable[str]) -> set[str]:
    """Return the names of all functions that yield effects."""
    functions = (node for source in sources for node in ast.walk(ast.parse(source)))
    return {
        node.name
        for node in functions
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id in KINDS
    }


def lost(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call of these functions whose effects are not taken: a statement of its
    own, or returned by a function that yields.
    """
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        inside = list(ast.walk(function))
        yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in inside)
        for node in inside:
            dropped = isinstance(node, ast.Expr) or (yields and isinstance(node, ast.Return))
            if dropped and isinstance(node.value, ast.Call) and (name := _name(node.value.func)) in names:
                yield node.lineno, name


def _name(called: ast.expr) -> str:
    return (
        called.id
        if isinstance(called, ast.Name)
        else called.attr
        if isinstance(called, ast.Attribute)
        else ""
    )


def lost_in(folder: Path) -> list[str]:
    """Return a line for each call in a folder of modules whose effects are lost."""
    sources = {path: path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    names = yielding(sources.values())
    return [
        f"{path}:{line}: {name}" for path, source in sources.items() for line, name in lost(source, names)
    ]
