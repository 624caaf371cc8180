"""Commands on the content of files and pipes, as Android's toybox has them."""

import hashlib
import re
from collections.abc import Callable

from crowdlearn_host.emulator.commands.usage import UsageError, options, valued
from crowdlearn_host.emulator.shell.shell import MAX_PIPE, CommandFunction, Io, Shell, Write

BLOCK = 1 << 18
GREP_FAILED = 2


async def cat(shell: Shell, words: list[str], io: Io) -> int:
    """Write the content of each file, or of the standard input."""
    _, paths = options(words, "u")
    code = 0
    for path in paths or ["-"]:
        if path == "-":
            while data := await io.read():
                await io.write(data)
            continue
        try:
            await _cat_file(shell, path, io)
        except OSError as error:
            await io.complain(f"cat: {path}: {error.strerror}\n".encode(errors="surrogateescape"))
            code = 1
    return code


async def _cat_file(shell: Shell, path: str, io: Io) -> None:
    content = shell.files.generate(path, shell.cwd)
    if content is not None:
        await io.write(content)
        return
    with shell.files.open(path, "rb", shell.cwd) as file:
        while block := file.read(BLOCK):
            await io.write(block)


async def head(shell: Shell, words: list[str], io: Io) -> int:
    """Write the first 10 lines of each file; -n LINES, -c BYTES."""

    def first(content: bytes, unit: str, count: str) -> bytes:
        number = _number(count)
        return content[:number] if unit == "c" else b"".join(_lines(content)[:number])

    return await _some(shell, words, io, first)


async def tail(shell: Shell, words: list[str], io: Io) -> int:
    """Write the last 10 lines of each file; -n LINES, -c BYTES, +NUMBER counts from the beginning."""

    def last(content: bytes, unit: str, count: str) -> bytes:
        number = _number(count.removeprefix("+"))
        parts = content if unit == "c" else _lines(content)
        chosen = (
            parts[max(number - 1, 0) :] if count.startswith("+") else parts[max(len(parts) - number, 0) :]
        )
        return chosen if isinstance(chosen, bytes) else b"".join(chosen)

    return await _some(shell, words, io, last)


async def _some(shell: Shell, words: list[str], io: Io, choose: Callable[[bytes, str, str], bytes]) -> int:
    if len(words) > 1 and words[1][:1] in "-+" and words[1][1:].isdigit():
        count = words[1] if words[1].startswith("+") else words[1][1:]
        words = [words[0], "-n", count, *words[2:]]
    values, paths = valued(words, "n:c:qv")
    if {"n", "c"} <= values.keys():
        raise UsageError("-n and -c do not go together")
    unit = "c" if "c" in values else "n"
    code = 0
    for index, path in enumerate(paths or ["-"]):
        content, failed = await _content(shell, [path], io)
        code = max(code, failed)
        if not failed and (("v" in values or len(paths) > 1) and "q" not in values):
            await io.write(f"{chr(10) * bool(index)}==> {path} <==\n".encode(errors="surrogateescape"))
        await io.write(choose(content, unit, values.get(unit, "10")))
    return code


def _lines(content: bytes) -> list[bytes]:
    """Return the lines of the content with their ends: only a newline ends one."""
    return [line + b"\n" for line in content.split(b"\n")[:-1]] + [content.rpartition(b"\n")[2]] * (
        not content.endswith(b"\n") and bool(content)
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise UsageError(f"bad number {text}")
    return int(text)


async def wc(shell: Shell, words: list[str], io: Io) -> int:
    """Write lines, words and bytes of each file, with its name, and their sums if there are several."""
    flags, paths = options(words, "lwc")
    chosen = [key for key in "lwc" if key in (flags or "lwc")]
    total, code = dict.fromkeys("lwc", 0), 0
    for path in paths or ["-"]:
        content, failed = await _content(shell, [path], io)
        code = max(code, failed)
        if failed:
            continue
        counts = {"l": content.count(b"\n"), "w": len(content.split()), "c": len(content)}
        total = {key: total[key] + counts[key] for key in total}
        await io.write(_counted(counts, chosen, path if paths else ""))
    if len(paths) > 1:
        await io.write(_counted(total, chosen, "total"))
    return code


def _counted(counts: dict[str, int], chosen: list[str], name: str) -> bytes:
    text = " ".join([*(str(counts[key]) for key in chosen), *([name] if name else [])])
    return f"{text}\n".encode(errors="surrogateescape")


async def grep(shell: Shell, words: list[str], io: Io) -> int:
    """Write the lines that hold a text, in which `.` stands for any character, `^` and `$` for the ends."""
    flags, rest = options(words, "FEvicqnhHl", wrong=GREP_FAILED)
    if not rest:
        raise UsageError("needs a text", GREP_FAILED)
    wanted = _pattern(rest[0], flags)
    paths = rest[1:]
    named = "H" in flags or (len(paths) > 1 and "h" not in flags)
    found_any, code = False, 1
    for path in paths or ["-"]:
        raw, failed = await _content(shell, [path], io)
        code = max(code, failed * GREP_FAILED)
        content = raw.decode(errors="surrogateescape")
        lines = content.split("\n")[: None if content and not content.endswith("\n") else -1]
        found = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if bool(wanted.search(line)) != ("v" in flags)
        ]
        found_any = found_any or bool(found)
        head = f"{path if paths else '(standard input)'}:" if named else ""
        if "q" in flags:
            continue
        if "l" in flags:
            text = f"{path}\n" if found else ""
        elif "c" in flags:
            text = f"{head}{len(found)}\n"
        else:
            text = "".join(f"{head}{f'{n}:' if 'n' in flags else ''}{line}\n" for n, line in found)
        await io.write(text.encode(errors="surrogateescape"))
    return 0 if found_any and code == 1 else code


def _pattern(text: str, flags: set[str]) -> re.Pattern[str]:
    """Return the text as a pattern that no line keeps busy for long: nothing in it is repeated.

    Raises UsageError for other patterns, which come from outside.
    """
    case = re.IGNORECASE if "i" in flags else 0
    if "F" in flags:
        return re.compile(re.escape(text), case)
    start, end = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
    body = text[start : len(text) - end]
    special = "*[]^$+?(){}|" if "E" in flags else "*[]^$"
    made, at = "", 0
    while at < len(body):
        char = body[at]
        if char == "\\" and at + 1 < len(body) and not body[at + 1].isalnum():
            if body[at + 1] in "+?(){}|" and "E" not in flags:
                raise UsageError(
                    f"{text}: of patterns only . ^ $ are known; use -F for fixed text", GREP_FAILED
                )
            at += 1
            made += re.escape(body[at])
        elif char in special or char == "\\":
            raise UsageError(f"{text}: of patterns only . ^ $ are known; use -F for fixed text", GREP_FAILED)
        else:
            made += "." if char == "." else re.escape(char)
        at += 1
    return re.compile("^" * start + made + "$" * end, case)


async def _content(shell: Shell, paths: list[str], io: Io) -> tuple[bytes, int]:
    """Return what `cat` makes of the paths, and its exit code."""
    parts = bytearray()

    async def collect(data: bytes) -> None:
        parts.extend(data)
        if len(parts) > MAX_PIPE:
            raise UsageError(f"more than {MAX_PIPE} bytes")

    code = await cat(shell, ["cat", "--", *paths], Io(io.read, collect, io.complain))
    return bytes(parts), code


def hasher(name: str) -> CommandFunction:
    """Make the command of a hash, as sha256sum."""

    async def command(shell: Shell, words: list[str], io: Io) -> int:
        code = 0
        brief, paths = options(words, "bc")
        if "c" in brief:
            return await _check(shell, name, paths, io)
        for path in paths or ["-"]:
            digest = hashlib.new(name, usedforsecurity=False)
            try:
                await cat(shell, ["cat", "--", path], Io(io.read, _updating(digest.update), _raise_text))
            except UsageError as error:
                await io.complain(f"{words[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
                code = 1
                continue
            line = digest.hexdigest() if "b" in brief else f"{digest.hexdigest()}  {path}"
            await io.write(f"{line}\n".encode(errors="surrogateescape"))
        return code

    return command


async def _check(shell: Shell, name: str, listings: list[str], io: Io) -> int:
    """Check (-c) files against the hashes in listings."""
    content, code = await _content(shell, listings, io)
    for line in content.decode(errors="surrogateescape").splitlines():
        wanted, _, path = line.partition("  ")
        if len(wanted) != 2 * hashlib.new(name).digest_size or not path:
            raise UsageError(f"bad line {line}")
        try:
            with shell.files.open(path, "rb", shell.cwd) as file:
                whole = hashlib.new(name, file.read()).hexdigest() == wanted
        except OSError:
            whole = False
        await io.write(f"{path}: {'OK' if whole else 'FAILED'}\n".encode(errors="surrogateescape"))
        code |= not whole
    return code


def _updating(update: Callable[[bytes], None]) -> Write:
    async def write(data: bytes) -> None:
        update(data)

    return write


async def _raise_text(text: bytes) -> None:
    raise UsageError(text.decode(errors="surrogateescape").removeprefix("cat: ").rstrip())
