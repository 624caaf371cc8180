"""Commands on the phone's files, as Android's toybox has them."""

import asyncio
import os
import shutil
import stat
import tarfile
import time
import zlib
from pathlib import Path

from crowdlearn_host.emulator.commands.usage import UsageError, operands, options
from crowdlearn_host.emulator.shell.shell import Io, Shell


async def ls(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "1adlR")
    code = 0
    for path in paths or ["."]:
        try:
            status = shell.files.stat(path, shell.cwd, follow="d" not in flags)
        except OSError as error:
            await io.complain(f"ls: {path}: {error.strerror}\n".encode(errors="surrogateescape"))
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
        await io.write(f"{path}:\n".encode(errors="surrogateescape"))
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
    if not paths:
        raise UsageError("needs a name")
    for path in paths:
        if "p" in flags and shell.files.real(path, shell.cwd).is_dir():
            continue
        shell.files.writable(path, shell.cwd).mkdir(parents="p" in flags, exist_ok="p" in flags)
    return 0


async def rm(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "rRf")
    if not paths and "f" not in flags:
        raise UsageError("needs a file")
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
            await io.complain(f"rm: {path}: {error.strerror}\n".encode(errors="surrogateescape"))
            code = 1
    return code


async def rmdir(shell: Shell, words: list[str], io: Io) -> int:
    for path in operands(words, 1):
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


async def readlink(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "f")
    if not paths:
        raise UsageError("needs a link")
    for path in paths:
        if "f" in flags:
            await io.write(f"{shell.files.normal(path, shell.cwd)}\n".encode(errors="surrogateescape"))
        else:
            await io.write(os.fsencode(os.readlink(shell.files.real(path, shell.cwd, follow=False))) + b"\n")
    return 0


async def tar(shell: Shell, words: list[str], io: Io) -> int:
    """-xf ARCHIVE and -xzf ARCHIVE, with -C FOLDER."""
    flags, *rest = words[1:] or [""]
    if flags.removeprefix("-") not in ("xf", "xzf") or not rest or rest[1:2] not in ([], ["-C"]):
        raise UsageError("only tar -xf or -xzf ARCHIVE [-C FOLDER] is here")
    target = shell.files.writable(rest[2] if len(rest) == 3 else ".", shell.cwd)
    if not target.is_dir():
        raise NotADirectoryError(2, os.strerror(2), rest[2] if len(rest) == 3 else ".")
    try:
        with tarfile.open(shell.files.real(rest[0], shell.cwd)) as archive:
            await asyncio.to_thread(archive.extractall, target, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        await io.complain(f"tar: {rest[0]}: {error}\n".encode())
        return 1
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
    flags, paths = options(words, "c")
    if not paths:
        raise UsageError("needs a file")
    for path in paths:
        real = shell.files.writable(path, shell.cwd)
        if "c" not in flags or real.exists():
            real.touch()
    return 0
