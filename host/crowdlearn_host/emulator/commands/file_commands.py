"""Commands on the phone's files, as Android's toybox has them."""

import asyncio
import os
import stat
import tarfile
import time
import zlib

from crowdlearn_host.emulator.commands.usage import UsageError, operands, options
from crowdlearn_host.emulator.hardware.filesystem import write_all
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
        shell.files.make_folder(path, shell.cwd, parents="p" in flags)
    return 0


async def rm(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "rRf")
    if not paths and "f" not in flags:
        raise UsageError("needs a file")
    recursive = bool(flags & {"r", "R"})
    code = 0
    for path in paths:
        try:
            shell.files.remove(path, shell.cwd, recursive=recursive, missing_ok="f" in flags)
        except OSError as error:
            await io.complain(f"rm: {path}: {error.strerror}\n".encode(errors="surrogateescape"))
            code = 1
    return code


async def rmdir(shell: Shell, words: list[str], io: Io) -> int:
    for path in operands(words, 1):
        shell.files.remove_folder(path, shell.cwd)
    return 0


async def mv(shell: Shell, words: list[str], io: Io) -> int:
    _, paths = options(words, "f")
    for source, target in _targets(shell, paths):
        shell.files.rename(source, target, shell.cwd)
    return 0


async def cp(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "rRfp")
    for source, target in _targets(shell, paths):
        if flags & {"r", "R"} and shell.files.is_folder(source, shell.cwd):
            shell.files.copy_folder(source, target, shell.cwd)
        else:
            shell.files.copy(source, target, shell.cwd)
    return 0


def _targets(shell: Shell, paths: list[str]) -> list[tuple[str, str]]:
    if len(paths) < 2:
        raise UsageError("needs a source and a target")
    *sources, target = paths
    if shell.files.is_folder(target, shell.cwd):
        return [(source, f"{target}/{os.path.basename(source.rstrip('/'))}") for source in sources]
    if len(sources) > 1:
        raise UsageError(f"{target} is not a folder")
    return [(sources[0], target)]


async def ln(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "sf")
    if len(paths) != 2:
        raise UsageError("needs a target and a name")
    make = shell.files.link if "s" in flags else shell.files.hard_link
    make(paths[0], paths[1], shell.cwd, replace="f" in flags)
    return 0


async def readlink(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "f")
    if not paths:
        raise UsageError("needs a link")
    for path in paths:
        if "f" in flags:
            await io.write(f"{shell.files.normal(path, shell.cwd)}\n".encode(errors="surrogateescape"))
        else:
            await io.write(os.fsencode(shell.files.read_link(path, shell.cwd)) + b"\n")
    return 0


async def tar(shell: Shell, words: list[str], io: Io) -> int:
    """Unpack an archive: -xf ARCHIVE and -xzf ARCHIVE, with -C FOLDER."""
    flags, *rest = words[1:] or [""]
    if flags.removeprefix("-") not in ("xf", "xzf") or not rest or rest[1:2] not in ([], ["-C"]):
        raise UsageError("only tar -xf or -xzf ARCHIVE [-C FOLDER] is here")
    target = rest[2] if len(rest) == 3 else "."
    if not shell.files.is_folder(target, shell.cwd):
        raise NotADirectoryError(20, os.strerror(20), target)
    try:
        with shell.files.open(rest[0], "rb", shell.cwd) as packed, tarfile.open(fileobj=packed) as archive:
            await asyncio.to_thread(_unpack, archive, shell, target)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        await io.complain(f"tar: {rest[0]}: {error}\n".encode(errors="surrogateescape"))
        return 1
    return 0


def _unpack(archive: tarfile.TarFile, shell: Shell, target: str) -> None:
    """Make what is in the archive, each below `target`; whatever its names say, all stays on the phone."""
    files = shell.files
    for member in archive:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise tarfile.TarError(f"{member.name} leads out of the folder")
        if not parts:
            continue
        path = "/".join([target, *parts])
        files.make_folder(os.path.dirname(path), shell.cwd, parents=True)
        if member.isdir():
            files.make_folder(path, shell.cwd, parents=True)
        elif member.issym():
            files.link(member.linkname, path, shell.cwd, replace=True)
        elif member.isfile() and (packed := archive.extractfile(member)) is not None:
            files.remove(path, shell.cwd, missing_ok=True)
            with files.open(path, "wb", shell.cwd) as file:
                os.fchmod(file.fileno(), member.mode & 0o755 | 0o600)
                while block := packed.read(1 << 18):
                    write_all(file, block)


async def chmod(shell: Shell, words: list[str], io: Io) -> int:
    if len(words) < 3:
        raise UsageError("needs a mode and files")
    mode = words[1]
    if mode not in ("+x", "a+x") and not all(char in "01234567" for char in mode):
        raise UsageError(f"bad mode {mode}")

    def change(now: int) -> int:
        return now | 0o111 if mode.endswith("+x") else int(mode, 8) & 0o777 | stat.S_IRUSR | stat.S_IWUSR

    for path in words[2:]:
        shell.files.change_mode(path, shell.cwd, change)
    return 0


async def touch(shell: Shell, words: list[str], io: Io) -> int:
    flags, paths = options(words, "c")
    if not paths:
        raise UsageError("needs a file")
    for path in paths:
        shell.files.touch(path, shell.cwd, make="c" not in flags)
    return 0
