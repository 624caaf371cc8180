"""The distributions of this checkout, and what their code imports."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
FOLDERS = ("device_runtime", "export", "host")
OF_ANDROID = {"java"}
"""Modules that Chaquopy brings into an Android app."""
OURS = {"crowdlearn-device", "crowdlearn-export", "crowdlearn"}


@cache
def project(folder: str) -> dict[str, Any]:
    """The `project` table of a distribution's pyproject."""
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]


def packages(folder: str) -> list[Path]:
    """The import packages of a distribution."""
    return sorted(path.parent for path in (ROOT / folder).glob("*/__init__.py"))


def declared(folder: str) -> set[str]:
    """Names of the distributions that one of ours requires, those of its extras and of ours among them."""
    names: set[str] = set()
    about = project(folder)
    extras = [line for lines in about.get("optional-dependencies", {}).values() for line in lines]
    for requirement in map(Requirement, [*about["dependencies"], *extras]):
        names.add(requirement.name)
    return names


def imported(folder: str) -> dict[str, set[str]]:
    """Names of the distributions that the code imports, each with the files that do."""
    found: dict[str, set[str]] = {}
    owners = packages_distributions()
    own = {path.name for each in FOLDERS for path in packages(each)}
    for package in packages(folder):
        for path in package.rglob("*.py"):
            for module in _modules(ast.parse(path.read_text())):
                if module not in {*sys.stdlib_module_names, *own, *OF_ANDROID}:
                    for name in owners.get(module, [module]):
                        found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


def closure(folder: str) -> set[str]:
    """Normal names of the distributions that a plain install of one of ours brings."""
    wanted: list[tuple[str, frozenset[str]]] = [(project(folder)["name"], frozenset())]
    here = {normal(d.name): d for d in distributions()}
    tables = {project(each)["name"]: project(each) for each in FOLDERS}
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        name, extras = wanted.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name in tables:
            lines = list(tables[name]["dependencies"])
            lines += [x for e in extras for x in tables[name]["optional-dependencies"][e]]
        else:
            lines = here[name].requires or []
        for requirement in map(Requirement, lines):
            environments: list[dict[str, str]] = [{"extra": extra} for extra in (extras or {""})]
            if requirement.marker is None or any(requirement.marker.evaluate(e) for e in environments):
                wanted.append((normal(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen} - OURS


def normal(name: str) -> str:
    """The name as indices compare it."""
    return name.lower().replace("_", "-").replace(".", "-")


def _modules(tree: ast.Module) -> Iterator[str]:
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and _is_import(node) and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value).partition(".")[0]
        elif isinstance(node, ast.Call) and _is_import(node) and isinstance(node.args[0], ast.Name):
            named = constants.get(node.args[0].id)
            yield from [] if named is None else [str(named).partition(".")[0]]


def _is_import(call: ast.Call) -> bool:
    """Whether a call imports its first argument; `extra` is that of crowdlearn_host.loaders."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in {"import_module", "importorskip", "__import__", "extra"} and bool(call.args)
