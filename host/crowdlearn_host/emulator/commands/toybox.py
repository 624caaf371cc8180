"""The phone's commands: the shell's own, and those that Android's toybox has for files and text."""

import asyncio
import os
import stat
import time

from crowdlearn_host.emulator.commands import file_commands, text_commands
from crowdlearn_host.emulator.commands.usage import UsageError
from crowdlearn_host.emulator.shell.shell import CommandFunction, Exit, Io, Shell, run_words


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


async def basename(shell: Shell, words: list[str], io: Io) -> int:
    await io.write(os.path.basename(words[-1].rstrip("/")).encode() + b"\n")
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


COMMANDS: dict[str, CommandFunction] = {
    "[": test,
    "basename": basename,
    "cat": text_commands.cat,
    "cd": cd,
    "chmod": file_commands.chmod,
    "cp": file_commands.cp,
    "date": date,
    "echo": echo,
    "exec": wrapper,
    "exit": leave,
    "export": export,
    "false": false,
    "grep": text_commands.grep,
    "head": text_commands.head,
    "id": identity,
    "ln": file_commands.ln,
    "ls": file_commands.ls,
    "md5sum": text_commands.hasher("md5"),
    "mkdir": file_commands.mkdir,
    "mv": file_commands.mv,
    "nohup": wrapper,
    "pwd": pwd,
    "readlink": file_commands.readlink,
    "rm": file_commands.rm,
    "rmdir": file_commands.rmdir,
    "setsid": wrapper,
    "sha256sum": text_commands.hasher("sha256"),
    "sleep": sleep,
    "tail": text_commands.tail,
    "test": test,
    "touch": file_commands.touch,
    "true": true,
    "wc": text_commands.wc,
    "which": which,
    ":": true,
}
