"""Effects that are lost: a function that yields effects does nothing unless they are taken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

KINDS = ("Effects", "Decision", "Results")
"""The annotations of functions that yield effects, or results of a role."""


def yielding(source: str) -> set[str]:
    """Return the names of a module's functions and methods that yield effects."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        and isinstance(node.returns, ast.Name)
        and node.returns.id in KINDS
    }


def lost(source: str, functions: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each call whose effects are not taken: a statement of its own, or returned by a
    function that yields. Calls are those of `functions`, and of the module's own methods.
    """
    methods = yielding(source)
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        inside = list(ast.walk(function))
        yields = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in inside)
        for node in inside:
            if not isinstance(node, ast.Expr | ast.Return) or not isinstance(node.value, ast.Call):
                continue
            if isinstance(node, ast.Return) and not yields:
                continue
            match node.value.func:
                case ast.Name(name) if name in functions:
                    yield node.lineno, name
                case ast.Attribute(ast.Name("self"), name) if name in methods:
                    yield node.lineno, name


def lost_in(folder: Path) -> list[str]:
    """Return a line for each call in a folder of modules whose effects are lost."""
    sources = {path: path.read_text("utf-8") for path in sorted(folder.rglob("*.py"))}
    functions = set().union(*map(yielding, sources.values()))
    return [
        f"{path}:{line}: {name}" for path, source in sources.items() for line, name in lost(source, functions)
    ]
