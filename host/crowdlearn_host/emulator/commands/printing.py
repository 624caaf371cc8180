"""`echo` and `printf`, as mksh and toybox have them."""

import re

from crowdlearn_host.emulator.commands.usage import UsageError
from crowdlearn_host.emulator.shell.shell import Io, Shell

MAX_WIDTH = 10_000
"""Characters that one conversion of printf fills up to."""
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{1,2}|0[0-7]{0,3}|[1-7][0-7]{0,2}|.)", re.S)
_ESCAPED = dict(zip("abcefnrtv\\", ("\a", "\b", "", "\x1b", *"\f\n\r\t\v\\"), strict=True))
_CONVERSION = re.compile(r"%([-+ #0]*)(\d*)(?:\.(\d*))?([a-zA-Z%])")


async def echo(shell: Shell, words: list[str], io: Io) -> int:
    """Write the words; escapes stand for characters unless -E, a newline ends them unless -n."""
    arguments, flags = words[1:], ""
    while arguments and re.fullmatch("-[neE]+", arguments[0]):
        flags += arguments.pop(0)[1:]
    text = " ".join(arguments)
    plain = max(flags.rfind("E"), -1) > flags.rfind("e")
    text, goes_on = (text, True) if plain else _unescaped(text)
    await io.write(_bytes(text + ("\n" if goes_on and "n" not in flags else "")))
    return 0


async def printf(shell: Shell, words: list[str], io: Io) -> int:
    """Write the format once, and again as long as there are arguments left."""
    words = words[2:] if words[1:2] == ["--"] else words[1:]
    if not words:
        raise UsageError("needs a format", 1)
    form, left = words[0], words[1:]
    wrong: list[str] = []
    while True:
        before = len(left)
        text, goes_on = _printed(form, left, wrong)
        await io.write(_bytes(text))
        if not goes_on or not left or len(left) == before:
            break
    for each in wrong:
        await io.complain(_bytes(f"printf: {each}: not a number\n"))
    return 1 if wrong else 0


def _printed(form: str, arguments: list[str], wrong: list[str]) -> tuple[str, bool]:
    """Return what the format makes of the arguments that it takes, and whether more may follow."""
    text, at = "", 0
    for found in _CONVERSION.finditer(form):
        plain, goes_on = _unescaped(_checked(form[at : found.start()]))
        text, at = text + plain, found.end()
        if not goes_on:
            return text, False
        if found[4] == "%":
            text += "%"
            continue
        argument = arguments.pop(0) if arguments else None
        if found[4] == "b":
            part, goes_on = _unescaped(argument or "")
            text += part
            if not goes_on:
                return text, False
            continue
        text += _converted(found, argument, wrong)
    plain, goes_on = _unescaped(_checked(form[at:]))
    return text + plain, goes_on


def _checked(text: str) -> str:
    if "%" in text:
        raise UsageError(f"bad conversion {text[text.index('%') :][:10]}")
    return text


def _converted(found: re.Match[str], argument: str | None, wrong: list[str]) -> str:
    flags, width, precision, kind = found[1], found[2], found[3], found[4]
    if any(len(size or "") > 5 or int(size or 0) > MAX_WIDTH for size in (width, precision)):
        raise UsageError(f"bad conversion {found[0][:20]}")
    form = f"%{flags}{width}" + ("" if precision is None else f".{precision}")
    if kind == "s":
        return f"{form}s" % (argument or "")
    if kind == "c":
        return f"%{flags}{width}s" % (argument or "")[:1]
    if kind in "dioux" or kind == "X":
        value = _integer(argument, wrong)
        if kind in "oxXu" and value < 0:
            value += 1 << 64
        return f"{form}{'d' if kind in 'iu' else kind}" % value
    if kind in "eEfgG":
        return f"{form}{kind}" % _float(argument, wrong)
    raise UsageError(f"bad conversion {found[0][:20]}")


def _integer(argument: str | None, wrong: list[str]) -> int:
    text = (argument or "0").strip()
    if text[:1] in ("'", '"') and len(text) > 1:
        return ord(text[1])
    try:
        return int(text, 8) if re.fullmatch("[-+]?0[0-7]+", text) else int(text, 0)
    except ValueError:
        wrong.append(text)
        return 0


def _float(argument: str | None, wrong: list[str]) -> float:
    text = (argument or "0").strip()
    try:
        return float(text)
    except ValueError:
        wrong.append(text)
        return 0.0


def _unescaped(text: str) -> tuple[str, bool]:
    """Return the text with its escapes as characters, and whether it goes on: \\c ends all output."""
    parts: list[str] = []
    at = 0
    for found in _ESCAPE.finditer(text):
        parts.append(text[at : found.start()])
        at = found.end()
        code = found[0][1:]
        if code == "c":
            return "".join(parts), False
        parts.append(_character(code) if len(code) > 1 or code.isdigit() else _ESCAPED.get(code, found[0]))
    parts.append(text[at:])
    return "".join(parts), True


def _character(code: str) -> str:
    value = int(code[1:], 16) if code[0] == "x" else int(code, 8)
    return bytes([value & 0xFF]).decode(errors="surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
