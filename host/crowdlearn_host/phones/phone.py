"""A virtual phone, one process: `python -m crowdlearn_host.phones.phone FOLDER READY_FD [PARENT]`."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from crowdlearn_host.phones.adbd import Adbd, Offer
from crowdlearn_host.phones.filesystem import Filesystem
from crowdlearn_host.phones.keys import KeyStore
from crowdlearn_host.phones.log import Log
from crowdlearn_host.phones.parent import die_with_parent
from crowdlearn_host.phones.processes import Processes
from crowdlearn_host.phones.settings import CONTROL_SOCKET, MAX_REQUEST, PhoneInfo, Settings, process_start
from crowdlearn_host.phones.spawner import Spawner
from crowdlearn_host.phones.system import commands


class Phone:
    """The parts of a running phone, and what its owner can do to it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._settings = settings
        self._log = Log(folder / "logcat.txt")
        files = Filesystem(folder / "root")
        spawner = Spawner(folder.parent.parent, settings.preload)
        self._processes = Processes(files, self._log, spawner, settings.programs)
        self._jobs: set[asyncio.Task[int]] = set()
        self._connections: set[Adbd] = set()
        self._off = asyncio.Event()
        properties = {
            "ro.product.name": settings.profile,
            "ro.product.model": settings.profile,
            "ro.product.device": settings.name,
            "ro.product.cpu.abi": os.uname().machine,
            "ro.serialno": settings.name,
            "ro.build.version.sdk": "34",
        }
        identity = "".join(f"{key}={properties[key]};" for key in list(properties)[:3])
        self._offer = Offer(
            identity=identity,
            keys=KeyStore(folder / "adb_keys"),
            auto_accept=settings.auto_accept,
            files=files,
            processes=self._processes,
            commands=commands(properties, self._log, self._processes),
            spawn_job=self._spawn_job,
        )

    async def serve(self, listener: socket.socket, control: socket.socket, ready: Callable[[], None]) -> None:
        """Serve adb and the owner until the phone is switched off."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._off.set)
        server = await loop.create_server(self._connect, sock=listener)
        owner = await asyncio.start_unix_server(self._serve_owner, sock=control, limit=MAX_REQUEST)
        ready()
        await self._off.wait()
        server.close()
        owner.close()
        await self._processes.close()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        for connection in list(self._connections):
            await connection.close()
        self._log.close()

    def _connect(self) -> Adbd:
        connection = _Tracked(self._offer, self._connections)
        self._connections.add(connection)
        return connection

    def _spawn_job(self, work: Awaitable[int]) -> None:
        task = asyncio.ensure_future(work)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _serve_owner(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):
            request = (await reader.readline()).decode(errors="replace").split()
            writer.write(self._obey(request).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _obey(self, request: list[str]) -> str:
        match request:
            case ["accept"]:
                accepted = [connection.accept_key() for connection in self._connections]
                return "ok" if any(accepted) else "no key waits to be accepted"
            case ["off"]:
                self._off.set()
                return "ok"
        return f"unknown request {' '.join(request)}"


class _Tracked(Adbd):
    def __init__(self, offer: Offer, connections: set[Adbd]) -> None:
        super().__init__(offer)
        self._connections = connections

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connections.discard(self)


def main(folder: Path, ready_fd: int, parent: int | None) -> None:
    """Run the phone of a folder; writes one line to `ready_fd` when it can be reached."""
    if parent is not None:
        die_with_parent(parent)
    # From here on short paths do: an address of a Unix socket has room for 107 bytes.
    os.chdir(folder)
    folder = Path()
    settings = Settings.load(folder)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", settings.port))
    listener.listen(128)
    Path(CONTROL_SOCKET).unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX)
    control.bind(CONTROL_SOCKET)
    control.listen()
    serial = f"127.0.0.1:{listener.getsockname()[1]}"

    def ready() -> None:
        pid = os.getpid()
        PhoneInfo(settings.name, serial, pid, process_start(pid), settings.profile).save(folder)
        os.write(ready_fd, b"ready\n")
        os.close(ready_fd)

    asyncio.run(Phone(folder.resolve(), settings).serve(listener, control, ready))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
