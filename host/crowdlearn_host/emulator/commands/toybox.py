"""The phone's commands: the shell's own, and those that Android's toybox has for files and text."""

import asyncio
import os
import shlex
import stat
import time

from crowdlearn_host.emulator.commands import file_commands, printing, text_commands
from crowdlearn_host.emulator.commands.usage import UsageError, operands, options
from crowdlearn_host.emulator.shell.shell import CommandFunction, Exit, Io, Shell, run_words
from crowdlearn_host.emulator.shell.syntax import NOT_FOUND

SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
TEST_FAILED = 2
"""Exit code of `test` if it cannot tell, which is no "no"."""


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
    options(words, "LP")
    await io.write(f"{shell.cwd}\n".encode(errors="surrogateescape"))
    return 0


async def export(shell: Shell, words: list[str], io: Io) -> int:
    """Set variables, all of which programs get; without words, write them."""
    flags, assignments = options(words, "p")
    if flags or not assignments:
        for name, value in sorted(shell.variables.items()):
            await io.write(f"export {name}={shlex.quote(value)}\n".encode(errors="surrogateescape"))
    for word in assignments:
        name, equals, value = word.partition("=")
        if not name.isidentifier() or not name.isascii():
            raise UsageError(f"{name}: is not an identifier")
        if equals:
            shell.variables[name] = value
    return 0


async def wrapper(shell: Shell, words: list[str], io: Io) -> int:
    """Run nohup's or setsid's command: on this phone a program needs neither to stay alive."""
    if not words[1:] or words[1].startswith("-"):
        raise UsageError("needs a command without options before it", NOT_FOUND)
    return await run_words(shell, words[1:], io)


async def replace_shell(shell: Shell, words: list[str], io: Io) -> int:
    """Run exec's command in place of the shell."""
    if not words[1:] or words[1].startswith("-"):
        raise UsageError("needs a command: redirections of the shell itself are not known")
    raise Exit(await run_words(shell, words[1:], io))


async def sleep(shell: Shell, words: list[str], io: Io) -> int:
    seconds = 0.0
    for word in words[1:] or [""]:
        unit = word[-1:] if word[-1:] in SECONDS else "s"
        try:
            seconds += float(word.removesuffix(unit)) * SECONDS[unit]
        except ValueError as error:
            raise UsageError("needs a number of seconds") from error
    if not seconds >= 0:
        raise UsageError("needs a number of seconds")
    while seconds > 0:
        await asyncio.sleep(min(seconds, SECONDS["d"]))
        seconds -= SECONDS["d"]
    return 0


async def test(shell: Shell, words: list[str], io: Io) -> int:
    arguments = words[1:]
    if words[0].endswith("["):
        if arguments[-1:] != ["]"]:
            raise UsageError("missing ]", TEST_FAILED)
        arguments = arguments[:-1]
    negated = len(arguments) > 1 and arguments[0] == "!"
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
            return _test_file(shell, "-L", path)
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
                raise UsageError(f"bad number in {' '.join(arguments)}", TEST_FAILED) from error
    raise UsageError(f"unknown expression {' '.join(arguments)}", TEST_FAILED)


def _test_file(shell: Shell, kind: str, path: str) -> bool:
    try:
        status = shell.files.stat(path, shell.cwd, follow=kind != "-L")
    except OSError:
        return False
    match kind:
        case "-L":
            return stat.S_ISLNK(status.st_mode)
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
    path, *suffix = operands(words, 1, 2)
    name = os.path.basename(path.rstrip("/")) or path[:1]
    if suffix and name != suffix[0]:
        name = name.removesuffix(suffix[0])
    await io.write(f"{name}\n".encode(errors="surrogateescape"))
    return 0


async def dirname(shell: Shell, words: list[str], io: Io) -> int:
    for path in operands(words, 1):
        await io.write(f"{os.path.dirname(path.rstrip('/')) or '.'}\n".encode(errors="surrogateescape"))
    return 0


async def date(shell: Shell, words: list[str], io: Io) -> int:
    flags, rest = options(words, "u")
    if len(rest) > 1 or (rest and not rest[0].startswith("+")):
        raise UsageError("only +FORMAT is known, the clock cannot be set")
    form = rest[0][1:] if rest else "%a %b %e %H:%M:%S %Z %Y"
    now = time.gmtime() if "u" in flags else time.localtime()
    await io.write(time.strftime(form, now).encode(errors="surrogateescape") + b"\n")
    return 0


async def getconf(shell: Shell, words: list[str], io: Io) -> int:
    if words[1:] not in (["PAGE_SIZE"], ["PAGESIZE"]):
        raise UsageError(f"unknown name {' '.join(words[1:])}")
    await io.write(f"{os.sysconf('SC_PAGE_SIZE')}\n".encode())
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
    flags, rest = options(words, "ugnG")
    if rest and rest != ["shell"]:
        raise UsageError(f"no user {rest[0]}")
    if len(flags - {"n"}) > 1 or flags == {"n"}:
        raise UsageError("give one of -u, -g and -G")
    whole = "uid=2000(shell) gid=2000(shell) groups=2000(shell)"
    await io.write(f"{('shell' if 'n' in flags else '2000') if flags else whole}\n".encode())
    return 0


COMMANDS: dict[str, CommandFunction] = {
    "[": test,
    "basename": basename,
    "cat": text_commands.cat,
    "cd": cd,
    "chmod": file_commands.chmod,
    "cp": file_commands.cp,
    "date": date,
    "dirname": dirname,
    "echo": printing.echo,
    "exec": replace_shell,
    "exit": leave,
    "export": export,
    "false": false,
    "getconf": getconf,
    "grep": text_commands.grep,
    "head": text_commands.head,
    "id": identity,
    "ln": file_commands.ln,
    "ls": file_commands.ls,
    "md5sum": text_commands.hasher("md5"),
    "mkdir": file_commands.mkdir,
    "mv": file_commands.mv,
    "nohup": wrapper,
    "printf": printing.printf,
    "pwd": pwd,
    "readlink": file_commands.readlink,
    "rm": file_commands.rm,
    "rmdir": file_commands.rmdir,
    "setsid": wrapper,
    "sha256sum": text_commands.hasher("sha256"),
    "sleep": sleep,
    "tail": text_commands.tail,
    "tar": file_commands.tar,
    "test": test,
    "touch": file_commands.touch,
    "true": true,
    "wc": text_commands.wc,
    "which": which,
    ":": true,
}
