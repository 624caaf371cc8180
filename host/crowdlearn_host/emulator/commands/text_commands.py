"""Commands on the content of files and pipes, as Android's toybox has them."""

import hashlib
from collections.abc import Callable

from crowdlearn_host.emulator.commands.usage import UsageError, options
from crowdlearn_host.emulator.shell.shell import CommandFunction, Io, Shell, Write

BLOCK = 1 << 18


async def cat(shell: Shell, words: list[str], io: Io) -> int:
    code = 0
    for path in words[1:] or ["-"]:
        if path == "-":
            while data := await io.read():
                await io.write(data)
            continue
        try:
            await _cat_file(shell, path, io)
        except OSError as error:
            await io.complain(f"cat: {path}: {error.strerror}\n".encode())
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
    return await _some_lines(shell, words, io, lambda lines, count: lines[:count])


async def tail(shell: Shell, words: list[str], io: Io) -> int:
    return await _some_lines(shell, words, io, lambda lines, count: lines[-count:] if count else [])


async def _some_lines(
    shell: Shell, words: list[str], io: Io, choose: Callable[[list[bytes], int], list[bytes]]
) -> int:
    arguments = words[1:]
    count = "10"
    if arguments[:1] == ["-n"]:
        count, arguments = (arguments[1:2] or [""])[0], arguments[2:]
    elif arguments and arguments[0].startswith("-") and arguments[0][1:].isdigit():
        count, arguments = arguments[0][1:], arguments[1:]
    if not count.isdigit():
        raise UsageError(f"bad number {count}")
    content = await _content(shell, arguments, io)
    await io.write(b"".join(choose(content.splitlines(keepends=True), int(count))))
    return 0


async def wc(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "lwc")
    content = await _content(shell, paths, io)
    counts = {"l": content.count(b"\n"), "w": len(content.split()), "c": len(content)}
    await io.write(" ".join(str(counts[key]) for key in "lwc" if key in (flags or "lwc")).encode() + b"\n")
    return 0


async def grep(shell: Shell, words: list[str], io: Io) -> int:
    flags, rest = options(words, "FEvicq")
    if not rest:
        raise UsageError("needs a text")
    # Fixed text only: a pattern from outside could keep a backtracking matcher busy for ever.
    wanted = rest[0].lower() if "i" in flags else rest[0]
    content = (await _content(shell, rest[1:], io)).decode(errors="surrogateescape")
    found = [
        line
        for line in content.splitlines(keepends=True)
        if (wanted in (line.lower() if "i" in flags else line)) != ("v" in flags)
    ]
    if "q" not in flags:
        text = f"{len(found)}\n" if "c" in flags else "".join(found)
        await io.write(text.encode(errors="surrogateescape"))
    return 0 if found else 1


async def _content(shell: Shell, paths: list[str], io: Io) -> bytes:
    parts = bytearray()

    async def collect(data: bytes) -> None:
        parts.extend(data)

    await cat(shell, ["cat", *paths], Io(io.read, collect, io.complain))
    return bytes(parts)


def hasher(name: str) -> CommandFunction:
    """sha256sum and its like."""

    async def command(shell: Shell, words: list[str], io: Io) -> int:
        code = 0
        for path in words[1:] or ["-"]:
            digest = hashlib.new(name, usedforsecurity=False)
            try:
                await cat(shell, ["cat", path], Io(io.read, _updating(digest.update), _raise_text))
            except UsageError as error:
                await io.complain(f"{words[0]}: {error.strerror}\n".encode())
                code = 1
                continue
            await io.write(f"{digest.hexdigest()}  {path}\n".encode())
        return code

    return command


def _updating(update: Callable[[bytes], None]) -> Write:
    async def write(data: bytes) -> None:
        update(data)

    return write


async def _raise_text(text: bytes) -> None:
    raise UsageError(text.decode().removeprefix("cat: ").rstrip())
