"""What a command line of the phone's shell is, parsed: lists of pipelines of commands, made of words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Text:
    """Characters of a word; unquoted ones may be a pattern."""

    text: str
    quoted: bool


@dataclass(frozen=True)
class Variable:
    """A variable, `$name`; unquoted, its value is split into words."""

    name: str
    quoted: bool


@dataclass(frozen=True)
class Substitution:
    """The output of a command, `$(...)`; unquoted, the output is split into words."""

    body: "Sequence"
    quoted: bool


@dataclass(frozen=True)
class Arithmetic:
    """An expression, `$((...))`: the value of an expression, which may hold variables and substitutions."""

    expression: "Word"
    quoted: bool


Part = Text | Variable | Substitution | Arithmetic
Word = tuple[Part, ...]


@dataclass(frozen=True)
class Redirect:
    """A redirection: `<`, `>`, `>>`, their forms for standard error, or one stream joined with the other."""

    operator: str
    target: Word = ()


@dataclass(frozen=True)
class Simple:
    """Assignments, then a command with its arguments."""

    assignments: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True)
class Subshell:
    """A list in a subshell, `( list )`."""

    body: "Sequence"
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True)
class Pipeline:
    """Commands whose outputs feed each other; `!` negates the exit code."""

    commands: tuple[Simple | Subshell, ...]
    negated: bool = False


@dataclass(frozen=True)
class AndOr:
    """Pipelines joined by `&&` and `||`; `background` when `&` ends it."""

    first: Pipeline
    rest: tuple[tuple[str, Pipeline], ...]
    background: bool = False


Sequence = tuple[AndOr, ...]
