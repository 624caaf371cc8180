"""Prose rules that a script can hold, over the docstrings and the messages of the product."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path

from .sentences import persons, too_long
from .verbs import VERBS

NO_HEADS = "What Who Whom Whose Of As Where Whether How Which When From To In"
HEADLESS = frozenset(NO_HEADS.split())
"""Words with which a clause without a head begins, unless another clause follows."""
HEADLESS_CONSTANT = HEADLESS | {"By", "Between", "Before", "Beyond"}
CONDITION = re.compile(
    r"\b(?:[Rr]aises?\s+[\w.]+(?:,?\s+(?:and|or)\s+[\w.]+)*|None|empty|False|True|0)\s+where\b"
)
"""'where' for 'if'."""
NO_NOUNS = """
Also After At Because Before By Do Everybody Here Have If It Meanwhile Never Nobody Not Nothing Now On Once
Only Return Somebody Then There These They This Those Until While With Without
"""
NOT_NOUNS = frozenset(NO_NOUNS.split()) | {
    form for verb in VERBS for form in (f"{verb}s", f"{verb}es", f"{verb[:-1]}ies")
}
"""Words with which no class's docstring begins: adverbs, pronouns, and verbs in the third person."""
ARRAYS = {"Array", "Floats", "Indices", "Tensor", "NDArray", "ndarray"}


@dataclass(frozen=True)
class Finding:
    """A text that breaks a rule: where it stands, and which rule."""

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
        first = text.split()[0].strip("`,:.;")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and first in HEADLESS:
            yield Finding(path, line, "headless", text.split("\n")[0])
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_verb(text):
            yield Finding(path, line, "no verb first", f"{node.name}: {text.splitlines()[0]}")
        elif (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and first == "Return" and _is_none(node)
        ):
            yield Finding(path, line, "returns nothing", f"{node.name}: {text.splitlines()[0]}")
        elif isinstance(node, ast.ClassDef) and _is_no_noun(text):
            yield Finding(path, line, "no noun first", f"{node.name}: {text.splitlines()[0]}")
        if found := CONDITION.search(text):
            yield Finding(path, line, "where for if", found.group())
        if (
            isinstance(node, ast.FunctionDef)
            and not node.name.startswith("_")
            and _arrays(node)
            and "[" not in text
        ):
            yield Finding(path, line, "array without shape", f"{node.name}: {text.splitlines()[0]}")
    own = {ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, Documented)}
    for line, text in _written(tree):
        if text not in own and text.split()[0].strip("`,:.;") in HEADLESS | {
            "By",
            "Between",
            "Before",
            "Beyond",
        }:
            yield Finding(path, line, "headless", text.split("\n")[0])
        for place in persons(text):
            yield Finding(path, line, "thing as person", place)
        for sentence in too_long(text):
            yield Finding(path, line, "long sentence", sentence)
    for line, text in _messages(tree):
        for place in persons(text):
            yield Finding(path, line, "thing as person in a message", place)


def _is_none(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether the function is annotated to return nothing."""
    return isinstance(node.returns, ast.Constant) and node.returns.value is None


def _is_verb(text: str) -> bool:
    """Tell whether the text begins with an imperative; "Count of ..." begins with a noun."""
    first, *after = text.split(maxsplit=2)
    return first.strip(".,:;") in VERBS and after[:1] != ["of"]


def _is_no_noun(text: str) -> bool:
    """Tell whether the text begins with code, an adverb, a pronoun or a verb; "Runs of ..." does not."""
    first, *after = text.split(maxsplit=2)
    return first.startswith(("`", "$", "(")) or (first.strip(".,:;") in NOT_NOUNS and after[:1] != ["of"])


def _written(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every string that stands alone: docstrings, those of constants among them."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.lineno, cleandoc(node.value.value)


def _messages(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and text of every other string with a space in it: errors, help, lines of the terminal."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if id(node) in documented or id(node) in inner:
            continue
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        values = [part.value if isinstance(part, ast.Constant) else "{}" for part in parts]
        text = "".join(value for value in values if isinstance(value, str))
        if " " in text.strip() and isinstance(node, ast.JoinedStr | ast.Constant):
            yield node.lineno, text


def _arrays(node: ast.FunctionDef) -> bool:
    """Tell whether a parameter or the result is an array."""
    hints = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
    names = {n.id for hint in hints if hint is not None for n in ast.walk(hint) if isinstance(n, ast.Name)}
    return bool(names & ARRAYS)
