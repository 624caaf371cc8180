"""Grammar of the phone's shell, a subset of POSIX: lists, pipelines, quotes, variables, redirections, `&`."""

import re

from crowdlearn_host.emulator.shell.tree import (
    AndOr,
    Arithmetic,
    Part,
    Pipeline,
    Redirect,
    Sequence,
    Simple,
    Subshell,
    Substitution,
    Text,
    Variable,
    Word,
)

MAX_COMMAND = 1 << 16
MAX_DEPTH = 16
_JOINING = ("2>&1", "1>&2", ">&2", "2>>", "2>", "1>")
_BLANK = " \t"
_OPERATORS = (
    "&&",
    "||",
    ">>",
    "2>&1",
    "2>>",
    "1>&2",
    ">&2",
    "2>",
    "1>",
    ";",
    "&",
    "|",
    ">",
    "<",
    "(",
    ")",
    "\n",
)
_REFUSED = re.compile(r"&>|[0-9]+[<>]|<<|<>|>[|]|;;|[$]['\"]")
"""Syntax that mksh has outside of quotes and this shell has not: numbered descriptors, documents, cases."""
_CLAUSES = ("if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac")
_RESERVED = frozenset((*_CLAUSES, "select", "function", "{", "}", "[["))
_SPECIAL = "?!$#@*-0123456789"
_NAME_START = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
_NAME = _NAME_START + "0123456789"


SYNTAX_ERROR, CANNOT_EXECUTE, NOT_FOUND = 2, 126, 127


class ShellSyntaxError(Exception):
    """The command cannot be parsed; `code` is the exit code."""

    def __init__(self, text: str, code: int = SYNTAX_ERROR) -> None:
        super().__init__(text)
        self.code = code


def parse(text: str) -> Sequence:
    """Return the syntax tree of a command line. Raises ShellSyntaxError."""
    if len(text) > MAX_COMMAND:
        raise ShellSyntaxError(f"a command of {len(text)} characters; at most {MAX_COMMAND} are taken")
    return _Parser(_tokens(text, 0), 0).program()


def _tokens(text: str, depth: int) -> list[str | Word]:
    if depth > MAX_DEPTH:
        raise ShellSyntaxError(f"nested deeper than {MAX_DEPTH}")
    tokens: list[str | Word] = []
    at = 0
    while at < len(text):
        if text[at] in _BLANK:
            at += 1
        elif text.startswith("\\\n", at):
            at += 2
        elif text[at] == "#":
            end = text.find("\n", at)
            at = len(text) if end < 0 else end
        elif operator := next((o for o in _OPERATORS if text.startswith(o, at)), None):
            if operator not in _JOINING and (unknown := _REFUSED.match(text, at)):
                raise ShellSyntaxError(f"{unknown[0]} is not known to this shell")
            tokens.append(operator)
            at += len(operator)
        else:
            word, at = _word(text, at, depth)
            tokens.append(word)
    return tokens


def _word(text: str, at: int, depth: int) -> tuple[Word, int]:
    parts: list[Part] = []
    quoted = False
    if unknown := _REFUSED.match(text, at):
        raise ShellSyntaxError(f"{unknown[0]} is not known to this shell")
    if text[at] == "~" and (at + 1 == len(text) or text[at + 1] in "/ \t\n;&|<>)"):
        parts.append(Variable("HOME", quoted=True))
        at += 1
    while at < len(text):
        char = text[at]
        if not quoted and (
            char in _BLANK or any(text.startswith(o, at) for o in _OPERATORS if not o[0].isdigit())
        ):
            break
        if not quoted and text.startswith('"$@"', at):
            at += 4  # no word at all, for a command line has no arguments
        elif char == '"':
            quoted = not quoted
            parts.append(Text("", quoted=True))
            at += 1
        elif char == "'" and not quoted:
            end = text.find("'", at + 1)
            if end < 0:
                raise ShellSyntaxError("no closing quote")
            parts.append(Text(text[at + 1 : end], quoted=True))
            at = end + 1
        elif char == "\\" and at + 1 < len(text):
            keeps = quoted and text[at + 1] not in '"\\$`\n'
            if text[at + 1] != "\n":
                parts.append(Text(text[at : at + 2] if keeps else text[at + 1], quoted=True))
            at += 2
        elif char in "$`":
            part, at = (_dollar if char == "$" else _backticks)(text, at, depth, quoted=quoted)
            parts.append(part)
        else:
            parts.append(Text(char, quoted))
            at += 1
    if quoted:
        raise ShellSyntaxError("no closing quote")
    if re.search(r"\{[^{}]*(,|\.\.)[^{}]*\}", _unquoted(parts)):
        raise ShellSyntaxError("braces that stand for several words are not known to this shell")
    return tuple(parts), at


def _unquoted(parts: list[Part]) -> str:
    """Return the word's text with a blank for whatever is quoted or expanded."""
    return "".join(part.text if isinstance(part, Text) and not part.quoted else " " for part in parts)


def _dollar(text: str, at: int, depth: int, *, quoted: bool) -> tuple[Part, int]:
    follows = text[at + 1 : at + 2]
    if follows == "(":
        end = _closing(text, at + 1)
        if text.startswith("((", at + 1) and text[end - 1] == ")" and _closing(text, at + 2) == end - 1:
            return Arithmetic(_expression(text[at + 3 : end - 1], depth + 1), quoted), end + 1
        body = _Parser(_tokens(text[at + 2 : end], depth + 1), depth + 1).program()
        return Substitution(body, quoted), end + 1
    if follows == "{":
        end = text.find("}", at)
        name = text[at + 2 : end]
        known = name in _SPECIAL or (name[:1] in _NAME_START and all(char in _NAME for char in name))
        if end < 0 or not name or not known:
            raise ShellSyntaxError("only ${NAME} is known")
        return Variable(name, quoted), end + 1
    if follows and follows in "'\"" and not quoted:
        raise ShellSyntaxError(f"${follows} is not known to this shell")
    if follows and follows in _SPECIAL:
        return Variable(follows, quoted), at + 2
    end = at + 1
    while end < len(text) and text[end] in (_NAME if end > at + 1 else _NAME_START):
        end += 1
    return (Variable(text[at + 1 : end], quoted), end) if end > at + 1 else (Text("$", quoted), at + 1)


def _expression(text: str, depth: int) -> Word:
    """Return the text between `$((` and `))`, of which only what stands for something else is a part."""
    if depth > MAX_DEPTH:
        raise ShellSyntaxError(f"nested deeper than {MAX_DEPTH}")
    parts: list[Part] = []
    at = 0
    while at < len(text):
        if text[at] in "$`":
            part, at = (_dollar if text[at] == "$" else _backticks)(text, at, depth, quoted=True)
            parts.append(part)
        else:
            parts.append(Text(text[at], quoted=True))
            at += 1
    return tuple(parts)


def _backticks(text: str, at: int, depth: int, *, quoted: bool) -> tuple[Part, int]:
    inner = ""
    at += 1
    while at < len(text) and text[at] != "`":
        if text[at] == "\\" and text[at + 1 : at + 2] in (*"`\\$", '"' if quoted else "`"):
            at += 1
        inner += text[at : at + 1]
        at += 1
    if at >= len(text):
        raise ShellSyntaxError("no closing `")
    return Substitution(_Parser(_tokens(inner, depth + 1), depth + 1).program(), quoted), at + 1


def _closing(text: str, at: int) -> int:
    depth = 0
    quote = ""
    while at < len(text):
        char = text[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "(":
            depth += 1
        elif char == ")":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ShellSyntaxError("no closing )")


class _Parser:
    def __init__(self, tokens: list[str | Word], depth: int) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = depth

    def program(self) -> Sequence:
        sequence = self._sequence(end=None)
        if self._at < len(self._tokens):
            raise ShellSyntaxError(f"unexpected {self._tokens[self._at]!r}")
        return sequence

    def _peek(self) -> str | Word | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self) -> str | Word:
        self._at += 1
        return self._tokens[self._at - 1]

    def _sequence(self, end: str | None) -> Sequence:
        items: list[AndOr] = []
        while True:
            self._skip_newlines()
            if self._peek() in (None, end) and (items or end is None):
                return tuple(items)
            item = self._and_or()
            match self._peek():
                case "&":
                    self._take()
                    item = AndOr(item.first, item.rest, background=True)
                case ";":
                    self._take()
                case None | "\n":
                    pass
                case token if token != end:
                    raise ShellSyntaxError(f"unexpected {token!r}")
            items.append(item)

    def _and_or(self) -> AndOr:
        first = self._pipeline()
        rest = []
        while (operator := self._peek()) in ("&&", "||"):
            self._take()
            self._skip_newlines()
            rest.append((str(operator), self._pipeline()))
        return AndOr(first, tuple(rest))

    def _pipeline(self) -> Pipeline:
        negated = self._peek() == (Text("!", quoted=False),)
        if negated:
            self._take()
        commands = [self._command()]
        while self._peek() == "|":
            self._take()
            self._skip_newlines()
            commands.append(self._command())
        return Pipeline(tuple(commands), negated)

    def _command(self) -> Simple | Subshell:
        if self._peek() != "(":
            return self._simple()
        self._take()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ShellSyntaxError(f"nested deeper than {MAX_DEPTH}")
        body = self._sequence(end=")")
        if self._peek() != ")":
            raise ShellSyntaxError("no closing )")
        self._take()
        self._depth -= 1
        redirects = []
        while redirect := self._redirect():
            redirects.append(redirect)
        return Subshell(body, tuple(redirects))

    def _simple(self) -> Simple:
        assignments: list[tuple[str, Word]] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            if redirect := self._redirect():
                redirects.append(redirect)
                continue
            token = self._peek()
            if token is None or isinstance(token, str):
                break
            self._take()
            if not (words or assignments) and (reserved := _plain(token)) in _RESERVED:
                raise ShellSyntaxError(f"{reserved}: inaccessible or not found", NOT_FOUND)
            if not words and (assignment := _assignment(token)):
                assignments.append(assignment)
            else:
                words.append(token)
        if not (assignments or words or redirects):
            raise ShellSyntaxError(f"unexpected {self._peek() or 'end of command'!r}")
        return Simple(tuple(assignments), tuple(words), tuple(redirects))

    def _redirect(self) -> Redirect | None:
        operator = self._peek()
        if operator in ("2>&1", "1>&2", ">&2"):
            self._take()
            return Redirect(str(operator))
        if operator not in ("<", ">", ">>", "1>", "2>", "2>>"):
            return None
        self._take()
        target = self._peek()
        if target is None or isinstance(target, str):
            raise ShellSyntaxError(f"no file after {operator}")
        self._take()
        return Redirect(str(operator), target)

    def _skip_newlines(self) -> None:
        while self._peek() == "\n":
            self._take()


def _assignment(word: Word) -> tuple[str, Word] | None:
    name = ""
    for index, part in enumerate(word):
        if not isinstance(part, Text) or part.quoted:
            return None
        if part.text == "=":
            return (name, word[index + 1 :]) if name else None
        if part.text not in (_NAME if name else _NAME_START):
            return None
        name += part.text
    return None


def _plain(word: Word) -> str:
    """Return the word if nothing of it is quoted or stands for something else, or ""."""
    if all(isinstance(part, Text) and not part.quoted for part in word):
        return "".join(part.text for part in word if isinstance(part, Text))
    return ""
