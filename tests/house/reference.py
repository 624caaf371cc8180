"""The reference pages, made from the code: python -m tests.house.reference writes docs/reference/.

python.md is made from `crowdlearn.__all__`, configuration.md from the description of a run, commands.md from
the commands' own help.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import crowdlearn
import typer
from crowdlearn_host.cli import COMMANDS, build
from crowdlearn_host.common.toml_files import Description, Section
from crowdlearn_host.spec.run_spec import RunSpec
from pydantic import BaseModel

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
MODULES = (
    "data",
    "energy",
    "errors",
    "hosting",
    "listeners",
    "models",
    "phones",
    "planning",
    "privacy",
    "simulation",
    "testing",
)
"""The public modules beside `crowdlearn` itself."""
MADE = "<!-- Made by python -m tests.house.reference; change the code instead. -->\n\n"


def pages() -> dict[str, str]:
    """Return the content of every page by its file name."""
    return {
        "python.md": MADE + "\n".join(_python()).rstrip() + "\n",
        "configuration.md": MADE + "\n".join(_configuration()).rstrip() + "\n",
        "commands.md": MADE + "\n".join(_commands()).rstrip() + "\n",
    }


def _python() -> Iterator[str]:
    yield "# Python\n"
    yield inspect.getdoc(crowdlearn) or ""
    for name in crowdlearn.__all__:
        value = getattr(crowdlearn, name)
        yield f"\n## {name}\n"
        if inspect.isclass(value):
            yield inspect.getdoc(value) or ""
            for member, of in sorted(vars(value).items()):
                yield from _member(name, member, of)
        else:
            yield f"```python\n{_signature(name, value)}\n```\n"
            yield inspect.getdoc(value) or ""
    yield from _modules()


def _modules() -> Iterator[str]:
    for name in MODULES:
        module = import_module(f"crowdlearn.{name}")
        yield f"\n# crowdlearn.{name}\n"
        yield inspect.getdoc(module) or ""
        yield "\n| name | meaning |\n|---|---|"
        for each in module.__all__:
            yield f"| `{each}` | {_first_sentence(getattr(module, each))} |"


def _first_sentence(value: Any) -> str:
    if not callable(value) or not value.__doc__:
        return ""
    text = " ".join(value.__doc__.split())
    return text.partition(". ")[0].rstrip(".").replace("|", "/") + "."


def _member(owner: str, name: str, value: Any) -> Iterator[str]:
    """Yield a method or property of our own, not what a base class or a decorator made."""
    if name.startswith("_"):
        return
    if isinstance(value, property) and value.fget is not None and value.fget.__doc__:
        yield f"\n### {owner}.{name}\n"
        yield inspect.getdoc(value) or ""
        return
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    ours = inspect.isfunction(function) and (function.__module__ or "").startswith("crowdlearn")
    if ours and function.__doc__:
        yield f"\n### {owner}.{name}\n"
        yield f"```python\n{_signature(name, function)}\n```\n"
        yield inspect.getdoc(function) or ""


def _signature(name: str, function: Any) -> str:
    parts = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(str(parameter).replace("'", ""))
    returned = str(inspect.signature(function)).rpartition(" -> ")[2].replace("'", "")
    line = f"{name}({', '.join(parts)}) -> {returned}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n) -> {returned}"


def _configuration() -> Iterator[str]:
    yield "# Description of a run\n"
    yield (
        "One TOML file that `crowdlearn train`, `simulate` and `plan` read; `crowdlearn init` writes one. "
        "Paths are relative to the file. `--set table.key=VALUE` overrides a key.\n"
    )
    yield from _table("", RunSpec)


def _table(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"\n## {f'[{name}]' if name else 'outside of tables'}\n"
    for base in model.__mro__:  # what a table shares with others is described by its base
        if issubclass(base, Section) and base not in (Section, Description):
            yield f"{inspect.cleandoc(base.__doc__ or '')}\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    rows = []
    for key, field in model.model_fields.items():
        kind = field.annotation
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            inner.append((f"{name}.{key}" if name else key, kind))
            continue
        default = "needed" if field.is_required() else _value(field.default)
        limits = ", ".join(filter(None, map(_limit, field.metadata)))
        rows.append(f"| `{key}` | {_type(kind)} | {default} | {limits} |")
    if rows:
        yield "\n| key | type | default | limits |\n|---|---|---|---|"
        yield from rows
    for each, kind in inner:
        yield from _table(each, kind)


def _type(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(_type(each) for each in get_args(kind) if each is not NoneType)
    if origin is tuple:
        return f"list of {_type(get_args(kind)[0])}"
    if origin is not None and hasattr(kind, "__metadata__"):
        return _type(get_args(kind)[0])
    words = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f'`"{value}"`'
    return f"`{list(value)!r}`" if isinstance(value, tuple) else f"`{value!r}`"


def _limit(constraint: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    for name, sign in signs.items():
        if (bound := getattr(constraint, name, None)) is not None:
            return f"{sign} {bound}"
    return ""


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "`crowdlearn COMMAND --help` prints the same; docs/commands.md lists exit codes and documents.\n"
    root: Any = typer.main.get_command(build())
    for name in COMMANDS:
        command = root.commands[name]
        for part, inner in getattr(command, "commands", {"": command}).items():
            yield from _command(f"{name} {part}".strip(), inner)


def _command(name: str, command: Any) -> Iterator[str]:
    yield f"\n## crowdlearn {name}\n"
    yield " ".join((command.help or "").split())
    rows = []
    for parameter in command.params:
        if parameter.name in ("help", "install_completion", "show_completion"):
            continue
        optional = parameter.param_type_name == "option"
        names = (
            ", ".join((*parameter.opts, *parameter.secondary_opts)) if optional else parameter.name.upper()
        )
        told = " ".join((getattr(parameter, "help", None) or "").split()).replace("|", "/")
        default = parameter.default
        plain = isinstance(default, str | int | float) and not isinstance(default, bool)
        rows.append(f"| `{names}` | {told} | {f'`{default}`' if plain else ''} |")
    if rows:
        yield "\n| argument | meaning | default |\n|---|---|---|"
        yield from rows


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, content in pages().items():
        (FOLDER / name).write_text(content, "utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    sys.exit(main())
