"""Commands that speak for the phone itself: properties, log, processes, its programs."""

import signal
from collections.abc import Mapping

from crowdlearn_host.phones.log import Log
from crowdlearn_host.phones.processes import Processes
from crowdlearn_host.phones.shell import CommandFunction, Io, Shell
from crowdlearn_host.phones.toybox import COMMANDS, UsageError


def commands(properties: Mapping[str, str], log: Log, processes: Processes) -> dict[str, CommandFunction]:
    """Everything the phone's shell can run."""

    async def getprop(shell: Shell, words: list[str], io: Io) -> int:
        if len(words) > 1:
            await io.write(properties.get(words[1], words[2] if len(words) > 2 else "").encode() + b"\n")
        else:
            await io.write("".join(f"[{key}]: [{value}]\n" for key, value in properties.items()).encode())
        return 0

    async def logcat(shell: Shell, words: list[str], io: Io) -> int:
        if "-c" in words:
            log.clear()
        elif "-d" in words:
            await io.write("".join(log.lines()).encode())
        else:
            async for line in log.follow():
                await io.write(line.encode())
        return 0

    async def ps(shell: Shell, words: list[str], io: Io) -> int:
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
        number = signal.SIGTERM
        pids = words[1:]
        if pids and pids[0].startswith("-"):
            number = _signal(pids[0][1:])
            pids = pids[1:]
        for pid in pids:
            if not pid.isdigit():
                raise UsageError(f"bad pid {pid}")
            processes.kill(int(pid), number)
        return 0

    async def program(shell: Shell, words: list[str], io: Io) -> int:
        return await processes.run(words, shell.cwd, io, shell.started)

    return {
        **COMMANDS,
        "getprop": getprop,
        "kill": kill,
        "logcat": logcat,
        "pidof": pidof,
        "ps": ps,
        **dict.fromkeys(processes.programs, program),
    }


def _signal(name: str) -> signal.Signals:
    try:
        return (
            signal.Signals(int(name)) if name.isdigit() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        )
    except (KeyError, ValueError) as error:
        if name == "0":
            return 0  # type: ignore[return-value]
        raise UsageError(f"bad signal {name}") from error
