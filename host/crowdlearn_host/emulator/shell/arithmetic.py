"""`$((...))` of the phone's shell: integers of 32 bits that wrap around, as mksh has them."""

import operator
import re
from collections.abc import Callable, Mapping

MAX_DEPTH = 16
_TOKEN = re.compile(
    r"\s*(0[xX][0-9a-fA-F]+|[0-9]+|[A-Za-z_][A-Za-z_0-9]*"
    r"|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>&|^!~()?:])"
)
_BITS = 32


class ExpressionError(Exception):
    """An expression that has no value here."""


def _divided(a: int, b: int) -> int:
    if b == 0:
        raise ExpressionError("zero divisor")
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_BINARY: tuple[dict[str, Callable[[int, int], int]], ...] = (
    {"||": lambda a, b: int(bool(a or b))},
    {"&&": lambda a, b: int(bool(a and b))},
    {"|": operator.or_},
    {"^": operator.xor},
    {"&": operator.and_},
    {"==": lambda a, b: int(a == b), "!=": lambda a, b: int(a != b)},
    {
        "<=": lambda a, b: int(a <= b),
        ">=": lambda a, b: int(a >= b),
        "<": lambda a, b: int(a < b),
        ">": lambda a, b: int(a > b),
    },
    {"<<": lambda a, b: a << (b % _BITS), ">>": lambda a, b: a >> (b % _BITS)},
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": _divided, "%": lambda a, b: a - b * _divided(a, b)},
)
"""Operators with their functions, those that bind least first."""
_UNARY: dict[str, Callable[[int], int]] = {
    "-": operator.neg,
    "+": operator.pos,
    "~": operator.invert,
    "!": lambda a: int(not a),
}


def evaluate(text: str, variables: Mapping[str, str]) -> int:
    """Return the value of an expression. Raises ExpressionError if it has none."""
    expression = _Expression(_tokens(text), variables)
    value = expression.conditional(0) if text.strip() else 0
    expression.expect(None)
    return value


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while text[at:].strip():
        token = _TOKEN.match(text, at)
        if token is None:
            raise ExpressionError(f"{text.strip()[:40]}: unexpected {text[at:].strip()[:1]!r}")
        found.append(token[1])
        at = token.end()
    return found


class _Expression:
    def __init__(self, tokens: list[str], variables: Mapping[str, str]) -> None:
        self._tokens, self._at, self._variables = tokens, 0, variables

    def _peek(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *those: str) -> str | None:
        token = self._peek()
        if token in those:
            self._at += 1
            return token
        return None

    def expect(self, token: str | None) -> None:
        """Raise ExpressionError unless this comes next; None is the end."""
        if self._peek() != token:
            raise ExpressionError(f"unexpected {self._peek() or 'end of expression'}")
        self._at += 1

    def conditional(self, depth: int) -> int:
        """Evaluate `a ? b : c`, or what binds more."""
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH}")
        value = self._binary(0, depth)
        if self._take("?"):
            chosen = self.conditional(depth + 1)
            self.expect(":")
            other = self.conditional(depth + 1)
            return chosen if value else other
        return value

    def _binary(self, level: int, depth: int) -> int:
        if level == len(_BINARY):
            return self._unary(depth)
        value = self._binary(level + 1, depth)
        while token := self._take(*_BINARY[level]):
            value = _wrapped(_BINARY[level][token](value, self._binary(level + 1, depth)))
        return value

    def _unary(self, depth: int) -> int:
        if depth > MAX_DEPTH:
            raise ExpressionError(f"nested deeper than {MAX_DEPTH}")
        if token := self._take(*_UNARY):
            return _wrapped(_UNARY[token](self._unary(depth + 1)))
        if self._take("("):
            value = self.conditional(depth + 1)
            self.expect(")")
            return value
        token = self._peek()
        if token is None or not (token[0].isalnum() or token[0] == "_"):
            raise ExpressionError(f"unexpected {token or 'end of expression'}")
        self._at += 1
        return _number(token if token[0].isdigit() else self._variables.get(token, "") or "0")


def _number(text: str) -> int:
    try:
        return _wrapped(int(text, 16 if text[:2] in ("0x", "0X") else 10))
    except ValueError as error:
        raise ExpressionError(f"{text[:40]}: not a number") from error


def _wrapped(value: int) -> int:
    half = 1 << (_BITS - 1)
    return (value + half) % (2 * half) - half
