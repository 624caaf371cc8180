"""Processes of a virtual phone: real child processes that die with it, whatever kills it."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from crowdlearn_device.transport.abstract_socket import PREFIX

from crowdlearn_host.emulator.hardware.filesystem import Filesystem
from crowdlearn_host.emulator.hardware.log import Log
from crowdlearn_host.emulator.processes.limits import Limits
from crowdlearn_host.emulator.processes.program_file import ENTRY, command
from crowdlearn_host.emulator.processes.spawner import Child, Spawner
from crowdlearn_host.emulator.shell.shell import Io, Write

MAX_LINE = 1 << 16
END_SECONDS = 5.0
SCHEDULER_CLOCK = 2
"""The last bits of the number of a process's clock (clock_getcpuclockid)."""
_LISTEN = "0A"
_ACCEPTS = 0x10000
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "OMP_NUM_THREADS", "PYTHONMALLOC")


SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/sys"),
    *("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/nsswitch.conf"),
    *("/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/ssl", "/etc/gai.conf", "/etc/alternatives"),
)
"""The folders that every program of this computer may read."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/shm", "/proc")
"""The devices that a program may write to beside the phone's files. Of /proc the kernel guards what is
another's.
"""


@dataclass(frozen=True)
class Running:
    """A process of the phone."""

    pid: int
    name: str
    arguments: tuple[str, ...]


class Processes:
    """The phone's processes: it starts programs (`programs`: name to MODULE:FUNCTION) and holds which of them
    run.

    A phone of a `machine` runs programs that lie in its files, too.
    """

    def __init__(
        self,
        files: Filesystem,
        log: Log,
        spawner: Spawner,
        programs: Mapping[str, str],
        limits: Limits | None,
        environment: Mapping[str, str],
        machine: str = "",
    ) -> None:
        self._files = files
        self._machine = machine
        self._log = log
        self._spawner = spawner
        self._programs = dict(programs)
        self._limits = limits
        self._variables = dict(environment)
        self._running: dict[int, Running] = {}
        self._children: dict[int, Child] = {}
        self._cpu_seconds: dict[int, float] = {}

    @property
    def programs(self) -> tuple[str, ...]:
        """Return names of the programs that can be run."""
        return tuple(self._programs)

    def running(self) -> list[Running]:
        """Return the processes that run now, oldest first."""
        return list(self._running.values())

    async def run(self, words: list[str], cwd: str, io: Io, started: Callable[[int], None]) -> int:
        """Run a program to its end; its output goes to the log and to `io`. Returns the exit code.

        A program whose caller goes away (cancellation) is killed.
        """
        name = os.path.basename(words[0])
        return await self._run(self._programs[name], [name], words, cwd, io, started)

    async def run_file(self, words: list[str], cwd: str, io: Io, started: Callable[[int], None]) -> int:
        """Run a program in the phone's files. Raises OSError if the phone does not execute it."""
        if not self._machine:
            raise FileNotFoundError(2, "inaccessible or not found", words[0])
        first = command(self._files.real(words[0], cwd), words[0], self._machine)
        return await self._run(ENTRY, [os.path.basename(words[0]), *first], words, cwd, io, started)

    async def _run(
        self,
        entry: str,
        first: list[str],
        words: list[str],
        cwd: str,
        io: Io,
        started: Callable[[int], None],
    ) -> int:
        name, arguments = first[0], words[1:]
        async with _Pipe() as stdout, _Pipe() as stderr:
            child = await self._spawner.spawn(
                entry,
                [*first, *(self._translate(argument, cwd) for argument in arguments)],
                folder=self._files.real(cwd),
                environment=self._environment(),
                outputs=(stdout.writing_end, stderr.writing_end),
                limits=asdict(self._limits) if self._limits else None,
                readable=_readable(self._variables.values()),
                writable=[str(self._files.real("/")), *DEVICES],
            )
            stdout.close_writing_end()
            stderr.close_writing_end()
            self._running[child.pid] = Running(child.pid, name, tuple(arguments))
            self._children[child.pid] = child
            self._log.write("am_proc_start", f"{name} {' '.join(arguments)}", pid=child.pid)
            started(child.pid)
            try:
                await asyncio.gather(
                    self._copy(stdout.reader, io.write, name, child.pid),
                    self._copy(stderr.reader, io.complain, name, child.pid),
                )
                code = await asyncio.shield(child.code)
            finally:
                del self._running[child.pid], self._children[child.pid]
                if not child.code.done():
                    _kill_group(child.pid)
        self._log.write("am_proc_died", f"{name} exit code {code}", pid=child.pid)
        return code if code >= 0 else 128 - code

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a process of the phone. Raises ProcessLookupError for any other."""
        if pid not in self._running:
            raise ProcessLookupError(3, "No such process", str(pid))
        os.kill(pid, number)

    def listens(self, port: int) -> bool:
        """Return whether a process of this phone listens on a TCP port of the loopback interface."""
        return self._owns(_listening_ports(port))

    def abstract_address(self, name: str) -> str | None:
        """Return where a process of this phone listens under a name of the abstract namespace, or None.

        Phones of one computer share its namespace: a runtime of ours puts its phone's mark before a name.
        """
        marked = self._variables.get(PREFIX, "") + name
        return next((f"\0{each}" for each in (name, marked) if self._owns(_listening_abstract(each))), None)

    def cpu_seconds(self) -> float:
        """Return processor time used by the programs of this phone, those that ended as of the last call."""
        for pid in self._running:
            for one in _family(pid):
                self._cpu_seconds[one] = _cpu_seconds(one) or self._cpu_seconds.get(one, 0.0)
        return sum(self._cpu_seconds.values())

    def memory(self) -> int:
        """Return bytes of anonymous memory of the programs and of what they started, with what they still
        share with the zygote.
        """
        return sum(_own_memory(one) for pid in self._running for one in _family(pid))

    async def close(self) -> None:
        """Kill every process of the phone and wait until they are gone."""
        ends = [child.code for child in self._children.values()]
        for pid in list(self._running):
            _kill_group(pid)
        if ends:
            await asyncio.wait(ends, timeout=END_SECONDS)
        await self._spawner.close()

    def _owns(self, sockets: set[str]) -> bool:
        return any(sockets & _sockets(pid) for pid in self._running)

    def _translate(self, argument: str, cwd: str) -> str:
        """Return an argument with the phone's path in it, if it is one, as this computer's. A relative path
        stays as it is, unless it leads upwards: it might lead outside.
        """
        option, equals, value = argument.partition("=")
        if equals and option.startswith("-") and _leads_away(value):
            return f"{option}={self._files.real(value, cwd)}"
        return str(self._files.real(argument, cwd)) if _leads_away(argument) else argument

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        home = str(self._files.real("/data/local/tmp"))
        return {**kept, **self._variables, "HOME": home, "TMPDIR": home, "PYTHONUNBUFFERED": "1"}

    async def _copy(
        self,
        source: asyncio.StreamReader,
        write: Write,
        name: str,
        pid: int,
    ) -> None:
        while True:
            try:
                line = await source.readline()
            except ValueError:
                line = await source.read(MAX_LINE)
            if not line:
                return
            self._log.write(name, line.decode(errors="replace").rstrip("\n"), pid=pid)
            await write(line)


def _leads_away(argument: str) -> bool:
    return argument.startswith("/") or ".." in argument.split("/")


def _readable(more: Iterable[str]) -> list[str]:
    """Return the paths that a program of a phone may read: the system's, Python's, and `more`."""
    python = [sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]
    python += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [*SYSTEM, *filter(os.path.isabs, [*python, *more])]


class _Pipe:
    """One end for a child to write to, one for this process to read from."""

    async def __aenter__(self) -> Self:
        reading_end, self.writing_end = os.pipe()
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=MAX_LINE)
        file = os.fdopen(reading_end, "rb")
        protocol = asyncio.StreamReaderProtocol(self.reader)
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, file)
        return self

    def close_writing_end(self) -> None:
        if self.writing_end >= 0:
            os.close(self.writing_end)
            self.writing_end = -1

    async def __aexit__(self, *_: object) -> None:
        self.close_writing_end()
        self._transport.close()


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _listening_ports(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    return inodes


def _listening_abstract(name: str) -> set[str]:
    inodes = set()
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == f"@{name}" and int(fields[3], 16) & _ACCEPTS:
            inodes.add(f"socket:[{fields[6]}]")
    return inodes


def _family(pid: int) -> list[int]:
    """Return a process and all that it and they started, as far as the kernel tells."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():  # a child is its thread's
                found += map(int, (thread / "children").read_text().split())
    return found


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        return time.clock_gettime(~pid << 3 | SCHEDULER_CLOCK)  # to the nanosecond; /proc counts in ticks
    return 0.0


def _own_memory(pid: int) -> int:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _sockets(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(descriptor))
    return found
