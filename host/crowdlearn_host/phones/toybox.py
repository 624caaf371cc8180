"""Commands on files and text, as Android's toybox has them, inside the phone's file system."""

import asyncio
import getopt
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from crowdlearn_host.phones.shell import CommandFunction, Exit, Io, Shell, Write, run_words

BLOCK = 1 << 18


class UsageError(OSError):
    """Wrong options or arguments; the shell prints it as an error of the command."""

    def __init__(self, text: str) -> None:
        super().__init__(22, text)


def options(words: list[str], short: str) -> tuple[set[str], list[str]]:
    """Single-letter options without values, and the other words. Raises UsageError."""
    try:
        found, rest = getopt.gnu_getopt(words[1:], short)
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from error
    return {name[1:] for name, _ in found}, rest


async def echo(shell: Shell, words: list[str], io: Io) -> int:
    arguments = words[1:]
    newline = arguments[:1] != ["-n"]
    text = " ".join(arguments if newline else arguments[1:]) + ("\n" if newline else "")
    await io.write(text.encode(errors="surrogateescape"))
    return 0


async def true(shell: Shell, words: list[str], io: Io) -> int:
    return 0


async def false(shell: Shell, words: list[str], io: Io) -> int:
    return 1


async def leave(shell: Shell, words: list[str], io: Io) -> int:
    code = words[1] if len(words) > 1 else str(shell.exit_code)
    if not code.isdigit():
        raise UsageError(f"bad number {code}")
    raise Exit(int(code) & 0xFF)


async def cd(shell: Shell, words: list[str], io: Io) -> int:
    target = words[1] if len(words) > 1 else shell.variables.get("HOME", "/")
    shell.files.names(target, shell.cwd)
    shell.cwd = shell.files.normal(target, shell.cwd)
    return 0


async def pwd(shell: Shell, words: list[str], io: Io) -> int:
    await io.write(f"{shell.cwd}\n".encode())
    return 0


async def export(shell: Shell, words: list[str], io: Io) -> int:
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            shell.variables[name] = value
    return 0


async def wrapper(shell: Shell, words: list[str], io: Io) -> int:
    """nohup, setsid, exec: on this phone a program needs none of them to stay alive."""
    rest = words[1:]
    return await run_words(shell, rest, io) if rest else 0


async def sleep(shell: Shell, words: list[str], io: Io) -> int:
    try:
        await asyncio.sleep(float(words[1]))
    except (IndexError, ValueError) as error:
        raise UsageError("needs a number of seconds") from error
    return 0


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


async def ls(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "1adlR")
    code = 0
    for path in paths or ["."]:
        try:
            status = shell.files.stat(path, shell.cwd, follow="d" not in flags)
        except OSError as error:
            await io.complain(f"ls: {path}: {error.strerror}\n".encode())
            code = 1
            continue
        if stat.S_ISDIR(status.st_mode) and "d" not in flags:
            await _list_folder(shell, path, flags, io, titled=len(paths) > 1 or "R" in flags)
        else:
            await io.write(_entry(shell, path, path, flags))
    return code


async def _list_folder(shell: Shell, path: str, flags: set[str], io: Io, *, titled: bool) -> None:
    names = [name for name in shell.files.names(path, shell.cwd) if "a" in flags or not name.startswith(".")]
    if titled:
        await io.write(f"{path}:\n".encode())
    for name in names:
        await io.write(_entry(shell, f"{path}/{name}", name, flags))
    for name in names if "R" in flags else []:
        child = f"{path}/{name}"
        if stat.S_ISDIR(shell.files.stat(child, shell.cwd, follow=False).st_mode):
            await io.write(b"\n")
            await _list_folder(shell, child, flags, io, titled=True)


def _entry(shell: Shell, path: str, name: str, flags: set[str]) -> bytes:
    text = name.encode(errors="surrogateescape") + b"\n"
    if "l" not in flags:
        return text
    status = shell.files.stat(path, shell.cwd, follow=False)
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.st_mtime))
    head = f"{stat.filemode(status.st_mode)} {status.st_nlink} shell shell {status.st_size:8} {when} "
    return head.encode() + text


async def mkdir(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "p")
    for path in paths:
        if "p" in flags and shell.files.real(path, shell.cwd).is_dir():
            continue
        shell.files.writable(path, shell.cwd).mkdir(parents="p" in flags, exist_ok="p" in flags)
    return 0


async def rm(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "rRf")
    recursive = bool(flags & {"r", "R"})
    code = 0
    for path in paths:
        try:
            real = shell.files.writable(path, shell.cwd, follow=False)
            if recursive and real.is_dir() and not real.is_symlink():
                shutil.rmtree(real)
            else:
                real.unlink(missing_ok="f" in flags)
        except OSError as error:
            await io.complain(f"rm: {path}: {error.strerror}\n".encode())
            code = 1
    return code


async def rmdir(shell: Shell, words: list[str], io: Io) -> int:
    for path in words[1:]:
        shell.files.writable(path, shell.cwd, follow=False).rmdir()
    return 0


async def mv(shell: Shell, words: list[str], io: Io) -> int:
    _, paths = options(words, "f")
    for source, target in _targets(shell, paths):
        shell.files.writable(source, shell.cwd, follow=False).replace(target)
    return 0


async def cp(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "rRfp")
    for source, target in _targets(shell, paths):
        real = shell.files.real(source, shell.cwd)
        if flags & {"r", "R"} and real.is_dir():
            # Links are copied as links, and never into a folder that is there: a link of the phone that was
            # followed by this computer would lead outside the phone's tree.
            shutil.copytree(real, target, symlinks=True)
        else:
            shutil.copyfile(real, target, follow_symlinks=False)
            target.chmod(stat.S_IMODE(real.stat().st_mode))
    return 0


async def ln(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "sf")
    if len(paths) != 2:
        raise UsageError("needs a target and a name")
    real = shell.files.writable(paths[1], shell.cwd, follow=False)
    if "f" in flags:
        real.unlink(missing_ok=True)
    if "s" in flags:
        real.symlink_to(paths[0])
    else:
        real.hardlink_to(shell.files.writable(paths[0], shell.cwd))
    return 0


async def chmod(shell: Shell, words: list[str], io: Io) -> int:
    if len(words) < 3:
        raise UsageError("needs a mode and files")
    for path in words[2:]:
        real = shell.files.writable(path, shell.cwd)
        now = real.stat().st_mode & 0o777
        if words[1] in ("+x", "a+x"):
            real.chmod(now | 0o111)
        elif all(char in "01234567" for char in words[1]):
            real.chmod(int(words[1], 8) & 0o777 | stat.S_IRUSR | stat.S_IWUSR)
        else:
            raise UsageError(f"bad mode {words[1]}")
    return 0


async def touch(shell: Shell, words: list[str], io: Io) -> int:
    for path in words[1:]:
        shell.files.writable(path, shell.cwd).touch()
    return 0


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


async def test(shell: Shell, words: list[str], io: Io) -> int:
    arguments = words[1:]
    if words[0].endswith("["):
        if arguments[-1:] != ["]"]:
            raise UsageError("missing ]")
        arguments = arguments[:-1]
    negated = arguments[:1] == ["!"]
    result = _test(shell, arguments[1:] if negated else arguments)
    return int(result == negated)


def _test(shell: Shell, arguments: list[str]) -> bool:
    match arguments:
        case []:
            return False
        case [text]:
            return bool(text)
        case ["-n", text]:
            return bool(text)
        case ["-z", text]:
            return not text
        case ["-L" | "-h", path]:
            return shell.files.real(path, shell.cwd, follow=False).is_symlink()
        case ["-e" | "-f" | "-d" | "-s" | "-r" | "-w" | "-x" as kind, path]:
            return _test_file(shell, kind, path)
        case [left, "=" | "==", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case [left, "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" as operator, right]:
            try:
                return bool(getattr(int(left), f"__{operator[1:]}__")(int(right)))
            except ValueError as error:
                raise UsageError(f"bad number in {' '.join(arguments)}") from error
    raise UsageError(f"unknown expression {' '.join(arguments)}")


def _test_file(shell: Shell, kind: str, path: str) -> bool:
    try:
        status = shell.files.stat(path, shell.cwd)
    except OSError:
        return False
    match kind:
        case "-f":
            return stat.S_ISREG(status.st_mode)
        case "-d":
            return stat.S_ISDIR(status.st_mode)
        case "-s":
            return status.st_size > 0
        case "-x":
            return bool(status.st_mode & 0o111)
        case "-w":
            return bool(status.st_mode & 0o222)
    return True


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


async def basename(shell: Shell, words: list[str], io: Io) -> int:
    await io.write(os.path.basename(words[-1].rstrip("/")).encode() + b"\n")
    return 0


async def readlink(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "f")
    for path in paths:
        if "f" in flags:
            await io.write(f"{shell.files.normal(path, shell.cwd)}\n".encode())
        else:
            await io.write(os.readlink(shell.files.real(path, shell.cwd, follow=False)).encode() + b"\n")
    return 0


async def date(shell: Shell, words: list[str], io: Io) -> int:
    form = words[1][1:] if len(words) > 1 and words[1].startswith("+") else "%a %b %d %H:%M:%S %Z %Y"
    await io.write(time.strftime(form).encode() + b"\n")
    return 0


async def which(shell: Shell, words: list[str], io: Io) -> int:
    missing = 0
    for name in words[1:]:
        if name in shell.commands:
            await io.write(f"/system/bin/{name}\n".encode())
        else:
            missing = 1
    return missing


async def identity(shell: Shell, words: list[str], io: Io) -> int:
    await io.write(b"2000\n" if "-u" in words else b"uid=2000(shell) gid=2000(shell)\n")
    return 0


def _targets(shell: Shell, paths: list[str]) -> list[tuple[str, Path]]:
    if len(paths) < 2:
        raise UsageError("needs a source and a target")
    *sources, target = paths
    real = shell.files.writable(target, shell.cwd)
    if real.is_dir():
        names = [os.path.basename(source.rstrip("/")) for source in sources]
        return [
            (source, shell.files.writable(f"{target}/{name}", shell.cwd))
            for source, name in zip(sources, names, strict=True)
        ]
    if len(sources) > 1:
        raise UsageError(f"{target} is not a folder")
    return [(sources[0], real)]


COMMANDS: dict[str, CommandFunction] = {
    "[": test,
    "basename": basename,
    "cat": cat,
    "cd": cd,
    "chmod": chmod,
    "cp": cp,
    "date": date,
    "echo": echo,
    "exec": wrapper,
    "exit": leave,
    "export": export,
    "false": false,
    "grep": grep,
    "head": head,
    "id": identity,
    "ln": ln,
    "ls": ls,
    "md5sum": hasher("md5"),
    "mkdir": mkdir,
    "mv": mv,
    "nohup": wrapper,
    "pwd": pwd,
    "readlink": readlink,
    "rm": rm,
    "rmdir": rmdir,
    "setsid": wrapper,
    "sha256sum": hasher("sha256"),
    "sleep": sleep,
    "tail": tail,
    "test": test,
    "touch": touch,
    "true": true,
    "wc": wc,
    "which": which,
    ":": true,
}
