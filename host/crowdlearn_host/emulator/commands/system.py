"""Commands that speak for the phone itself: properties, log, processes, its programs, reports."""

import shutil
import signal
from collections.abc import Mapping
from typing import Protocol

from crowdlearn_host.emulator.commands.packages import Packages
from crowdlearn_host.emulator.commands.toybox import COMMANDS
from crowdlearn_host.emulator.commands.tracing import perfetto
from crowdlearn_host.emulator.commands.usage import UsageError, options
from crowdlearn_host.emulator.hardware.facts import (
    report_battery,
    report_memory,
    report_stats,
    report_thermal,
)
from crowdlearn_host.emulator.hardware.log import Log
from crowdlearn_host.emulator.hardware.power import PowerState
from crowdlearn_host.emulator.hardware.profiles import DeviceProfile
from crowdlearn_host.emulator.processes.processes import Processes
from crowdlearn_host.emulator.shell.shell import PROGRAM_FILES, CommandFunction, Io, Shell
from crowdlearn_host.emulator.shell.syntax import CANNOT_EXECUTE, NOT_FOUND

EXISTS = 0


class Powered(Protocol):
    """A battery that can be read, and set for tests as Android allows."""

    @property
    def state(self) -> PowerState: ...

    def override_thermal(self, status: int | None) -> None: ...

    def plug(self, plugged: bool) -> None: ...

    def set_level(self, percent: int) -> None: ...


def system_commands(
    profile: DeviceProfile,
    properties: Mapping[str, str],
    log: Log,
    processes: Processes,
    packages: Packages,
    battery: Powered,
) -> dict[str, CommandFunction]:
    """Return everything the phone's shell can run but what concerns apps."""
    return {
        **COMMANDS,
        **_process_commands(processes),
        "df": _df(profile),
        "dumpsys": _dumpsys(profile, processes, packages, battery),
        "getprop": _getprop(properties),
        "logcat": _logcat(log),
        "perfetto": perfetto(profile, lambda: battery.state),
    }


def _getprop(properties: Mapping[str, str]) -> CommandFunction:
    async def getprop(shell: Shell, words: list[str], io: Io) -> int:
        if len(words) > 3 or (words[1:2] and words[1].startswith("-")):
            raise UsageError("only a name and a default are known")
        if len(words) > 1:
            default = words[2] if len(words) > 2 else ""
            await io.write(f"{properties.get(words[1], default)}\n".encode())
        else:
            await io.write("".join(f"[{key}]: [{value}]\n" for key, value in properties.items()).encode())
        return 0

    return getprop


def _logcat(log: Log) -> CommandFunction:
    async def logcat(shell: Shell, words: list[str], io: Io) -> int:
        flags, rest = options(words, "cd")
        if rest or len(flags) > 1:
            raise UsageError("one of -c and -d is known, and nothing else")
        if "c" in flags:
            log.clear()
        elif "d" in flags:
            await io.write("".join(log.lines()).encode())
        else:
            async for line in log.follow():
                await io.write(line.encode())
        return 0

    return logcat


def _dumpsys(
    profile: DeviceProfile, processes: Processes, packages: Packages, battery: Powered
) -> CommandFunction:
    async def dumpsys(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["battery"]:
                text = report_battery(profile, battery.state)
            case ["battery", "set", "level", percent] if percent.isdigit() and int(percent) <= 100:
                battery.set_level(int(percent))
                text = ""
            case ["battery", "unplug"]:
                battery.plug(False)
                text = ""
            case ["battery", "reset"]:
                battery.plug(True)
                text = ""
            case ["batterystats", *options] if options in ([], ["--charged"]):
                text = report_stats(profile, battery.state)
            case ["thermalservice"]:
                text = report_thermal(battery.state)
            case ["meminfo"]:
                text = report_memory(profile, processes.memory())
            case ["package", name]:
                text = packages.report(name)
            case _:
                await io.complain(f"Can't find service: {' '.join(words[1:])}\n".encode())
                return 20
        await io.write(text.encode())
        return 0

    return dumpsys


def thermal_service(battery: Powered) -> CommandFunction:
    """Make `cmd thermalservice`, by which a test sets the status that Android reports."""

    async def service(shell: Shell, words: list[str], io: Io) -> int:
        match words[1:]:
            case ["override-status", status] if status.isdigit() and int(status) <= 6:
                battery.override_thermal(int(status))
            case ["reset"]:
                battery.override_thermal(None)
            case _:
                raise UsageError("only override-status 0 to 6, and reset, are known")
        return 0

    return service


def _df(profile: DeviceProfile) -> CommandFunction:
    async def df(shell: Shell, words: list[str], io: Io) -> int:
        paths = options(words, "k")[1]
        for path in paths:
            shell.files.stat(path, shell.cwd)  # all of them lie on one disk
        # What is free is what this computer can really hold, but never more than the phone would have.
        total = profile.storage << 20
        free = min(total * 3 // 4, shutil.disk_usage(shell.files.real("/data/local/tmp")).free >> 10)
        row = f"/dev/block/dm-0 {total} {total - free} {free} {100 - 100 * free // total}% /data"
        await io.write(f"Filesystem 1K-blocks Used Available Use% Mounted on\n{row}\n".encode())
        return 0

    return df


def _process_commands(processes: Processes) -> dict[str, CommandFunction]:
    async def ps(shell: Shell, words: list[str], io: Io) -> int:
        _, rest = options(words, "Ae")
        if rest:
            raise UsageError(f"unexpected {rest[0]}")
        await io.write(b"USER           PID NAME\n")
        for process in processes.running():
            await io.write(f"shell    {process.pid:9} {process.name}\n".encode())
        return 0

    async def pidof(shell: Shell, words: list[str], io: Io) -> int:
        found = [str(process.pid) for process in processes.running() if process.name in words[1:]]
        if found:
            await io.write(" ".join(found).encode() + b"\n")
        return 0 if found else 1

    async def kill(shell: Shell, words: list[str], io: Io) -> int:
        number: int = signal.SIGTERM
        pids = words[1:]
        if pids and pids[0].startswith("-"):
            number = _signal(pids[0][1:])
            pids = pids[1:]
        if not pids:
            raise UsageError("needs a process")
        for pid in pids:
            if not pid.isdigit():
                raise UsageError(f"bad pid {pid}")
            processes.kill(int(pid), number)
        return 0

    async def program(shell: Shell, words: list[str], io: Io) -> int:
        return await processes.run(words, shell.cwd, io, shell.started)

    async def program_file(shell: Shell, words: list[str], io: Io) -> int:
        try:
            return await processes.run_file(words, shell.cwd, io, shell.started)
        except OSError as error:
            reason = "inaccessible or not found" if isinstance(error, FileNotFoundError) else error.strerror
            await io.complain(f"sh: {words[0]}: {reason}\n".encode())
            return NOT_FOUND if isinstance(error, FileNotFoundError) else CANNOT_EXECUTE

    programs = dict.fromkeys(processes.programs, program)
    return {"kill": kill, "pidof": pidof, "ps": ps, PROGRAM_FILES: program_file, **programs}


def _signal(name: str) -> int:
    if name == "0":
        return EXISTS
    try:
        if name.isdigit():
            return signal.Signals(int(name))
        return signal.Signals[f"SIG{name.removeprefix('SIG')}"]
    except (KeyError, ValueError) as error:
        raise UsageError(f"bad signal {name}") from error
