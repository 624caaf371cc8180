"""Prose rules that a script can hold, over the docstrings of the product."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEADLESS = (
    "What",
    "Who",
    "Whom",
    "Whose",
    "Of",
    "As",
    "Where",
    "Whether",
    "How",
    "Which",
    "When",
    "From",
    "To",
    "In",
)
"""Words with which a clause without a head begins, unless another clause follows."""
CONDITION = re.compile(
    r"\b(?:[Rr]aises?\s+[\w.]+(?:,?\s+(?:and|or)\s+[\w.]+)*|None|empty|False|True|0)\s+where\b"
)
"""'where' for 'if'."""
ARRAYS = {"Array", "Floats", "Indices", "Tensor", "NDArray", "ndarray"}
MOST_WORDS = 40


@dataclass(frozen=True)
class Finding:
    """A docstring that breaks a rule: where it stands, and which rule."""

    path: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def findings(path: Path) -> Iterator[Finding]:
    """Yield every finding in the Python file at `path`."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, Documented):
            continue
        text = ast.get_docstring(node)
        if not text:
            continue
        line = getattr(node, "lineno", 1)
        first = text.split()[0].strip("`,:.")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and first in HEADLESS:
            yield Finding(path, line, "headless", text.split("\n")[0])
        if found := CONDITION.search(text):
            yield Finding(path, line, "where for if", found.group())
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and _arrays(node)
            and "[" not in text
        ):
            yield Finding(path, line, "array without shape", f"{node.name}: {text.splitlines()[0]}")


def _arrays(node: ast.FunctionDef) -> bool:
    """Whether a parameter or the result is an array."""
    hints = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    names = {n.id for hint in hints if hint is not None for n in ast.walk(hint) if isinstance(n, ast.Name)}
    return bool(names & ARRAYS)
