"""Java classes with Android's signatures and no content, for a compiler to check the app against.

The signatures are those of PyPI's chaquopy-stubs-android (API 36): names, nesting, parameters and
inheritance of Android's public API, as Python types. Of each class that the app uses, only members are
written whose names occur in the app's code. Numbers that are returned are ints there, whatever Android's
width is, and constants have no values: what is compiled is checked, and not to be run. Or every call of a
class goes to a player (`played`), and it runs on any Java VM: benchmarks/android/app/player.py plays Android.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

_NUMBERS = {"int": "int", "bool": "boolean", "float": "float", "str": "String", "None": "void"}
_NAMES = ("int", "long", "float", "double", "boolean", "byte", "short", "char")
_PRIMITIVE = {f"java.j{name}": name for name in _NAMES}
_ARRAYS = {f"java.chaquopy.JavaArrayJ{x.capitalize()}": f"{x}[]" for x in _NAMES}
_OF_OBJECTS = {"getClass", "notify", "notifyAll", "wait", "hashCode", "toString", "finalize"}
_NO_PARENTS = {
    f"java.{name}"
    for name in (
        *("lang.Object", "lang.Enum", "lang.Cloneable", "lang.Comparable", "lang.AutoCloseable"),
        *("lang.Runnable", "lang.Iterable", "lang.CharSequence", "io.Closeable", "io.Serializable"),
    )
}
LONG = {"getConsumedEnergy", "getTimestampMillis", "ENERGY_UNAVAILABLE", "optLong"}
"""Of the numbers that the app uses, those that Android declares as long."""
DOUBLE = {"optDouble", "getDouble"}
PLAYED = "org.crowdlearn.check.Played"
THROWN = {
    "openFile": "java.io.FileNotFoundException",
    "createPipe": "java.io.IOException",
    "fromFd": "java.io.IOException",
    "transact": "android.os.RemoteException",
    "onTransact": "android.os.RemoteException",
}
"""Checked exceptions, which the stubs do not tell, of the methods that the app uses."""


@dataclass
class Found:
    """A class of the stubs: its dotted name, and its syntax tree."""

    name: str
    module: str
    tree: ast.ClassDef
    outer: str = ""
    members: set[str] = field(default_factory=set)


class Signatures:
    """The classes below a folder of stubs (`android-stubs/...`), by name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._modules: dict[str, dict[str, Found]] = {}

    def find(self, name: str) -> Found | None:
        """The class of a dotted name, as in android.view.View.OnClickListener; Java's own are left out."""
        parts = name.split(".")
        first = next((i for i, part in enumerate(parts) if part[:1].isupper()), None)
        if first is None or name.startswith("java."):
            return None
        return self._module(".".join(parts[:first])).get(name)

    def _module(self, module: str) -> dict[str, Found]:
        if module not in self._modules:
            parts = module.split(".")
            path = self._folder.joinpath(f"{parts[0]}-stubs", *parts[1:], "__init__.pyi")
            found: dict[str, Found] = {}
            if path.is_file():
                for name, tree, outer in _classes(ast.parse(path.read_text()).body, module):
                    found[name] = Found(name, module, tree, outer)
            self._modules[module] = found
        return self._modules[module]


def write_stubs(
    folder: Path, used: Iterable[str], words: set[str], target: Path, *, played: bool = False
) -> list[Path]:
    """Write a Java file for each class that is used, or that those mention; `words` are the app's
    identifiers. Raises LookupError for a class that Android does not have.
    """
    signatures = Signatures(folder)
    classes: dict[str, Found] = {}
    waiting = list(used)
    for name in waiting:
        if signatures.find(name) is None:
            raise LookupError(f"Android has no class {name}")
    while waiting:
        name = waiting.pop()
        found = signatures.find(name)
        if found is None or name in classes:
            continue
        classes[name] = found
        waiting += [found.outer] if found.outer else []
        waiting += _mentioned(found, words)
        inner = (n for n in _inner(found) if n.rpartition(".")[2] in words)
        waiting += inner
    paths = []
    for name, found in classes.items():
        if not found.outer:
            path = target.joinpath(*name.split(".")).with_suffix(".java")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"package {found.module};\n\n{_java(found, classes, words, played)}")
            paths.append(path)
    return paths


def imports(source: str) -> list[str]:
    """The classes that a Java file imports from Android."""
    return re.findall(r"^import ((?:android|org\.json)\.[\w.]+);", source, re.M)


def identifiers(source: str) -> set[str]:
    """The words of a Java file."""
    return set(re.findall(r"[A-Za-z_]\w*", source))


def _classes(body: list[ast.stmt], prefix: str, outer: str = "") -> Iterator[tuple[str, ast.ClassDef, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, node, outer
            yield from _classes(node.body, name, name)


def _inner(found: Found) -> list[str]:
    return [f"{found.name}.{n.name}" for n in found.tree.body if isinstance(n, ast.ClassDef)]


def _kept(found: Found, words: set[str], played: bool = False) -> Iterator[ast.FunctionDef | ast.AnnAssign]:
    for node in found.tree.body:
        if isinstance(node, ast.FunctionDef):
            final = node.name in _OF_OBJECTS and not _parameters(node)
            final = final and not (played and node.name == "toString")
            if (node.name in words or node.name == "__init__") and not final:
                yield node
        elif (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in words
        ):
            yield node


def _mentioned(found: Found, words: set[str]) -> list[str]:
    names = [_full(base, found.module) for base in map(ast.unparse, found.tree.bases)]
    for node in _kept(found, words):
        if isinstance(node, ast.AnnAssign):
            texts = [ast.unparse(node.annotation)]
        else:
            texts = [ast.unparse(a.annotation) for a in _parameters(node) if a.annotation]
            texts += [ast.unparse(node.returns)] if node.returns else []
        for text in texts:
            names += [_full(name, found.module) for name in re.findall(r"[A-Za-z_][\w.]*", text)]
    return names


def _parameters(node: ast.FunctionDef) -> list[ast.arg]:
    found = [*node.args.posonlyargs, *node.args.args]
    return found[1:] if found and found[0].arg == "self" else found


def _full(name: str, module: str) -> str:
    """A name with its package: stubs name classes of their own package without it."""
    return f"{module}.{name}" if name[:1].isupper() else name


def _java(found: Found, classes: dict[str, Found], words: set[str], played: bool) -> str:
    tree = found.tree
    short = tree.name
    generic = [b for b in tree.bases if ast.unparse(b).startswith("typing.Generic")]
    letters = _letters(generic[0]) if generic else []
    bases = [_full(ast.unparse(b).partition("[")[0], found.module) for b in tree.bases if b not in generic]
    bases = [base for base in bases if base not in _NO_PARENTS]
    # Stubs do not tell interfaces from classes, but no interface is constructed.
    parent = next((base for base in bases if base in classes and _constructed(classes[base])), "")
    parent = parent or (bases[-1] if bases else "")
    known = parent in classes or parent.startswith(("java.lang.", "java.util.", "java.io."))
    head = f"public {'static ' if found.outer else ''}class {short}"
    head += f"<{', '.join(letters)}>" if letters else ""
    head += f" extends {parent}" if known else ""
    lines: list[str] = []
    constructors = False
    written: set[str] = set()
    for node in _kept(found, words, played):
        line = _field(node, found, classes, played) if isinstance(node, ast.AnnAssign) else ""
        if isinstance(node, ast.FunctionDef):
            constructors = constructors or (node.name == "__init__" and bool(_parameters(node)))
            line = _method(node, found, short, classes, played)
        if line and line not in written:
            lines.append(line)
            written.add(line)
    if constructors and not any(line.startswith(f"public {short}()") for line in written):
        lines.append(f"protected {short}() {{}}")  # for classes that extend it
    inner = [classes[name] for name in _inner(found) if name in classes]
    lines += [_java(each, classes, words, played) for each in inner]
    body = "\n".join("  " + line.replace("\n", "\n  ") for line in lines)
    return f"{head} {{\n{body}\n}}\n"


def _constructed(found: Found) -> bool:
    return any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in found.tree.body)


def _letters(base: ast.expr) -> list[str]:
    return [name.rpartition("__")[2] for name in re.findall(r"_\w+__\w+", ast.unparse(base))]


def _field(node: ast.AnnAssign, found: Found, classes: dict[str, Found], played: bool) -> str:
    assert isinstance(node.target, ast.Name)
    text = ast.unparse(node.annotation)
    static = "static " if text.startswith("typing.ClassVar") else ""
    kind = _type(text.removeprefix("typing.ClassVar[").removesuffix("]") if static else text, found, classes)
    kind = "long" if node.target.id in LONG else kind
    zero = {"int": "0", "long": "0", "float": "0", "boolean": "false"}.get(kind, "null")
    # Through a cast of an object, so that no compiler takes it for a constant: its value is Android's.
    boxed = {"int": "Integer", "long": "Long", "float": "Float", "boolean": "Boolean"}.get(kind)
    value = f"{boxed}.valueOf(({kind}) {zero})" if boxed else zero
    if played and static:
        name = f"{found.name}.{node.target.id}"
        number = kind in ("int", "long", "float")
        value = f'({kind}) {PLAYED}.{"number" if number else "value"}("{name}")'
    return f"public {static}final {kind} {node.target.id} = {value};"


def _method(node: ast.FunctionDef, found: Found, short: str, classes: dict[str, Found], played: bool) -> str:
    decorators = {ast.unparse(d) for d in node.decorator_list}
    parameters = []
    for number, argument in enumerate(_parameters(node)):
        text = ast.unparse(argument.annotation) if argument.annotation else "java.lang.Object"
        parameters.append(f"{_type(text, found, classes)} p{number}")
    if node.args.vararg:
        text = ast.unparse(node.args.vararg.annotation) if node.args.vararg.annotation else "java.lang.Object"
        parameters.append(f"{_type(text, found, classes)}... rest")
    given = ", ".join(parameters)
    names = "".join(f", {parameter.rpartition(' ')[2]}" for parameter in parameters)
    if node.name == "__init__":
        thrown = " throws org.json.JSONException" if found.module == "org.json" and given else ""
        body = f' {PLAYED}.call(this, "{found.name}.<init>"{names}); ' if played else ""
        return f"public {short}({given}){thrown} {{{body}}}"
    kind = _type(ast.unparse(node.returns) if node.returns else "None", found, classes)
    kind = "long" if node.name in LONG else "double" if node.name in DOUBLE else kind
    static = "static " if "staticmethod" in decorators else ""
    signature = ast.unparse(node.args) + (ast.unparse(node.returns) if node.returns else "")
    variables = set(re.findall(r"_(\w+?)__(\w+)", signature))
    own = sorted({letter for owner, letter in variables if static or owner != short})
    static += f"<{', '.join(own)}> " if own else ""
    thrown = " throws org.json.JSONException" if found.module == "org.json" and _throws(node.name) else ""
    thrown = f" throws {THROWN[node.name]}" if node.name in THROWN else thrown
    body = "throw new UnsupportedOperationException();"
    if played:
        this = "null" if static.startswith("static") else "this"
        call = f'{PLAYED}.call({this}, "{found.name}.{node.name}"{names})'
        body = f"{call};" if kind == "void" else f"return {_unboxed(kind, call)};"
    return f"public {static}{kind} {node.name}({given}){thrown} {{ {body} }}"


def _unboxed(kind: str, call: str) -> str:
    if kind in ("int", "long", "float", "double", "short", "byte"):
        return f"((Number) {call}).{kind}Value()"
    return f"({'Boolean' if kind == 'boolean' else kind}) {call}"


def _throws(name: str) -> bool:
    return not name.startswith(("opt", "is", "keys", "length", "has", "equals", "toString"))


def _type(text: str, found: Found, classes: dict[str, Found]) -> str:
    """The Java type of a Python one: of a union, the primitive or else the last."""
    parts = [part.strip() for part in _split(text) if part.strip() != "None"] or ["None"]
    for part in parts:
        if part in _PRIMITIVE:
            return _PRIMITIVE[part]
    part = parts[-1] if len(parts) > 1 and parts[0] in ("str", "int", "bool", "float") else parts[0]
    if part in _NUMBERS:
        return _NUMBERS[part]
    if part in _ARRAYS:
        return _ARRAYS[part]
    if part.startswith("java.chaquopy.JavaArray["):
        return _type(part.removeprefix("java.chaquopy.JavaArray[").removesuffix("]"), found, classes) + "[]"
    if match := re.fullmatch(r"_\w+__(\w+)", part):
        return match[1]
    name, _, inner = part.partition("[")
    name = _full(name, found.module)
    if not (name in classes or name.startswith(("java.", "org.json."))):
        return "Object"
    if inner:
        arguments = [_type(each, found, classes) for each in _split(inner.removesuffix("]"), ",")]
        if all(a[:1].isupper() or "." in a for a in arguments):
            return f"{name}<{', '.join(arguments)}>"
    return name


def _split(text: str, mark: str = "|") -> list[str]:
    """Parts of a text between marks that are not in brackets."""
    parts, depth, last = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == mark and not depth:
            parts.append(text[last:at].strip())
            last = at + 1
    return [*parts, text[last:].strip()]
