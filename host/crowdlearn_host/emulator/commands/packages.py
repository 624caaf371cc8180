"""Installed apps of a virtual phone: kept and listed. There is no Android here to run them.

Of the app of this project, the Python half is run in its place, which needs no Android.
"""

import re
import shutil
import signal
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from crowdlearn_host.adb.deployment.app import HOME, PACKAGE, SERVICE
from crowdlearn_host.emulator.commands.apk import ApkError, package_name
from crowdlearn_host.emulator.commands.usage import UsageError
from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.processes.processes import Processes
from crowdlearn_host.emulator.shell.shell import CommandFunction, Io, Shell

MAX_APK = 1 << 30
NO_APPS = "this phone is virtual and runs no Android apps: start crowdlearn-device from the shell"
RUNTIME = "crowdlearn-device"
APP_HOME = f"/data/data/{PACKAGE}/files"
_PACKAGE = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+")
_BLOCK = 1 << 18


class Packages:
    """The folder of APK files, one a package."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def names(self) -> list[str]:
        """Return the names of installed packages, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.apk"))

    async def install(self, read: Callable[[int], Awaitable[bytes]], size: int) -> str:
        """Install an APK of `size` bytes that `read` gives in pieces; the package. Raises ApkError."""
        if not 0 < size <= MAX_APK:
            raise ApkError(f"{size} bytes")
        part = self._folder / "incoming.part"
        try:
            with part.open("w+b") as file:
                await _copy(read, file, size)
                file.seek(0)
                name = package_name(file)
            if not _PACKAGE.fullmatch(name):
                raise ApkError(f"bad package name {name[:80]!r}")
            shutil.move(part, self._folder / f"{name}.apk")
        finally:
            part.unlink(missing_ok=True)
        return name

    def remove(self, name: str) -> bool:
        """Uninstall a package; return whether it was there."""
        if name not in self.names():
            return False
        (self._folder / f"{name}.apk").unlink()
        return True

    def report(self, name: str) -> str:
        """Write what `dumpsys package NAME` prints."""
        if name not in self.names():
            return f"Unable to find package: {name}\n"
        return f"Packages:\n  Package [{name}]:\n    codePath=/data/app/{name}\n"


def package_commands(
    packages: Packages, files: Filesystem, processes: Processes, services: Mapping[str, CommandFunction]
) -> dict[str, CommandFunction]:
    """Return the commands `pm`, `cmd package` and `am`.

    `services` are others that `cmd` serves, by name.
    """

    async def pm(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["install", *rest]:
                return await _install(packages, files, shell, rest, io)
            case ["list", "packages", *_]:
                await io.write("".join(f"package:{name}\n" for name in packages.names()).encode())
                return 0
            case ["path", name]:
                if name not in packages.names():
                    return 1
                await io.write(f"package:/data/app/{name}/base.apk\n".encode())
                return 0
            case ["uninstall", *_, name]:
                removed = packages.remove(name)
                await io.write(b"Success\n" if removed else b"Failure [DELETE_FAILED_INTERNAL_ERROR]\n")
                return 0 if removed else 1
        raise UsageError(f"unknown command {' '.join(words[1:])}")

    async def cmd(shell: Shell, words: list[str], io: Io) -> int:
        if words[1:2] == ["package"]:
            return await pm(shell, words[1:], io)
        if words[1:2] and words[1] in services:
            return await services[words[1]](shell, words[1:], io)
        raise UsageError(f"cannot find service: {' '.join(words[1:2])}")

    app: list[int] = []

    async def am(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["start-foreground-service", "-n", component, *extras] if component == SERVICE:
                if PACKAGE not in packages.names():
                    await io.complain(b"Error: Not found; no service started.\n")
                    return 255
                if RUNTIME in processes.programs:
                    await io.write(f"Starting service: Intent {{ cmp={component} }}\n".encode())
                    given = extras[2] if extras[:2] == ["--es", "arguments"] else ""
                    shell.spawn_job(_run_app(files, processes, given, app))
                    return 0
            case ["force-stop", package]:
                for pid in app if package == PACKAGE else ():
                    processes.kill(pid, signal.SIGKILL)
                return 0
        await io.complain(f"Error: {NO_APPS}\n".encode())
        return 255

    return {"am": am, "cmd": cmd, "pm": pm}


async def _run_app(files: Filesystem, processes: Processes, arguments: str, running: list[int]) -> int:
    """Run the app's Python half to its end; what it says goes to the log alone."""

    async def nothing(data: bytes) -> None:
        """Drop an app's output, as Android does."""

    async def no_input() -> bytes:
        return b""

    files.real(APP_HOME).mkdir(parents=True, exist_ok=True)  # the app's own, where the shell may not look
    files.make_folder(HOME, parents=True)
    words = [RUNTIME, "app", "--home", APP_HOME, "--inbox", HOME, f"--arguments={arguments}"]
    mine: list[int] = []

    def started(pid: int) -> None:
        mine.append(pid)
        running.append(pid)

    try:
        return await processes.run(words, "/data/local/tmp", Io(no_input, nothing, nothing), started)
    finally:
        for pid in mine:
            running.remove(pid)


async def _install(packages: Packages, files: Filesystem, shell: Shell, words: list[str], io: Io) -> int:
    try:
        if "-S" in words:
            size = words[words.index("-S") + 1 :][:1]
            if not size or not size[0].isdigit():
                raise ApkError("no size")
            await packages.install(_exactly(io), int(size[0]))
        else:
            with files.open(words[-1] if words else "", "rb", shell.cwd) as file:
                size_now = files.stat(words[-1], shell.cwd).st_size
                await packages.install(_from_file(file), size_now)
    except ApkError as error:
        await io.write(f"Failure [INSTALL_PARSE_FAILED_NOT_APK: {error}]\n".encode())
        return 1
    await io.write(b"Success\n")
    return 0


def _exactly(io: Io) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        return (await io.read())[:limit]

    return read


def _from_file(file: BinaryIO) -> Callable[[int], Awaitable[bytes]]:
    async def read(limit: int) -> bytes:
        return file.read(min(limit, _BLOCK))

    return read


async def _copy(read: Callable[[int], Awaitable[bytes]], file: BinaryIO, size: int) -> None:
    left = size
    while left:
        data = await read(left)
        if not data:
            raise ApkError(f"{left} bytes are missing")
        left -= file.write(data)
