"""Bring programs and the device runtime to a phone over adb, start it, and reach it."""

import asyncio
import hashlib
import posixpath
import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from crowdlearn_host.adb.carriers.mux import StreamRefused
from crowdlearn_host.adb.services.device import AdbDevice
from crowdlearn_host.adb.services.files import Progress
from crowdlearn_host.errors import FleetError

HOME = "/data/local/tmp/crowdlearn"
START_SECONDS = 60.0
STOP_SECONDS = 5.0
SECRET = frozenset({"token"})
"""Names of files that are not kept in the store, and that only the phone's owner can read."""
LINKS_A_COMMAND = 50
_POLL_SECONDS = 0.02
_MAX_POLL_SECONDS = 0.25


class Deployment(Protocol):
    """The runtime of a phone as the server needs it, whichever form the device runtime has on it."""

    async def install(self, files: Mapping[str, bytes | Path], progress: Progress | None = None) -> int:
        """Have the files, by relative name, in the runtime's home; returns the bytes that were sent."""

    async def start(self) -> None:
        """Start the runtime and wait until it listens. Raises FleetError."""

    async def connect(self) -> socket.socket:
        """Return a new connection to the runtime. Raises FleetError."""

    async def stop(self) -> None:
        """Stop the runtime; harmless when it does not run."""


class FileStore:
    """Files in a folder of the phone, kept by content: what is there is never sent again.

    A file lies in `store/SHA256` and its name is a relative link to it, or a copy where there are no links. A
    push that was cut off leaves only a `.part`, which the next one replaces.
    """

    def __init__(self, device: AdbDevice, home: str, *, links: bool = True) -> None:
        self._device = device
        self._home = home
        self._links = links

    async def install(self, files: Mapping[str, bytes | Path], progress: Progress | None = None) -> int:
        """Send what is missing, check it on the phone, and link the names; returns the bytes sent."""
        secret = {name: content for name, content in files.items() if name in SECRET}
        files = {name: content for name, content in files.items() if name not in SECRET}
        digests = {name: _digest(content) for name, content in files.items()}
        links = [_link(name, digest, copy=not self._links) for name, digest in digests.items()]
        store = f"{self._home}/store"
        listing = await self._device.shell(f"mkdir -p {shlex.quote(store)} && ls {shlex.quote(store)}")
        present = set(listing.check(f"listing {store}").decode().split())
        missing = {digest: files[name] for name, digest in digests.items() if digest not in present}
        total = sum(_size(content) for content in missing.values())
        await self._check_room(total)
        sent = 0
        for digest, content in missing.items():
            before = sent

            def report(done: int, _: int, before: int = before) -> None:
                if progress:
                    progress(before + done, total)

            await self._add(store, digest, content, report)
            sent += _size(content)
        for at in range(0, len(links), LINKS_A_COMMAND):
            command = " && ".join([f"cd {shlex.quote(self._home)}", *links[at : at + LINKS_A_COMMAND]])
            (await self._device.shell(command)).check(f"linking files in {self._home}")
        for name, content in secret.items():
            path = f"{self._home}/{name}"
            await self._device.shell(f"rm -f {shlex.quote(path)}")  # it may be a link to the store
            await self._device.push(content, path, mode=0o600)
        return sent + sum(map(_size, secret.values()))

    async def _check_room(self, total: int) -> None:
        """Raise FleetError if the phone reports that it has no room for so many bytes."""
        output = (await self._device.shell(f"df -k {shlex.quote(self._home)}")).stdout.split()[-3:-2]
        free = int(output[0]) << 10 if output and output[0].isdigit() else None
        if free is not None and free < total:
            raise FleetError(
                f"{self._device.serial}: {self._home} needs {total / 1e6:.1f} MB and the phone's storage has "
                f"{free / 1e6:.1f} MB left; make room on it and start again"
            )

    async def _add(self, store: str, digest: str, content: bytes | Path, progress: Progress) -> None:
        part = f"{store}/{digest}.part"
        await self._device.push(content, part, progress=progress)
        output = (await self._device.shell(f"sha256sum {shlex.quote(part)}")).check(f"hashing {part}")
        if output[:64].decode(errors="replace") != digest:
            raise FleetError(
                f"{part} is damaged on the phone: its storage or the connection is faulty, try again"
            )
        move = f"mv {shlex.quote(part)} {shlex.quote(f'{store}/{digest}')}"
        (await self._device.shell(move)).check(f"storing {digest}")


class RuntimeDeployment:
    """The plain device runtime as a program of the phone's shell.

    `program` is the words that run it (a bundle has several); the phone lists the process by the first.

    `arguments` are added to `serve --home HOME --port 0`, for example `--name`.
    """

    def __init__(
        self,
        device: AdbDevice,
        *,
        home: str = HOME,
        program: Sequence[str] = ("crowdlearn-device",),
        arguments: Sequence[str] = (),
        start_seconds: float = START_SECONDS,
    ) -> None:
        self._device = device
        self._home = home
        self._start_seconds = start_seconds
        self._program = posixpath.basename(program[0])
        self._command = shlex.join([*program, "serve", "--home", home, "--port", "0", *arguments])
        self._store = FileStore(device, home)
        self._pid: int | None = None
        self._port: int | None = None

    async def install(self, files: Mapping[str, bytes | Path], progress: Progress | None = None) -> int:
        """Have the files, by relative name, in the runtime's home; returns the bytes that were sent."""
        return await self._store.install(files, progress)

    async def start(self) -> None:
        """Start the runtime and wait until it listens. Raises FleetError with the end of its log."""
        await self.stop()
        home = shlex.quote(self._home)
        result = await self._device.shell(
            f"mkdir -p {home} && cd {home} && rm -f port || exit 1; "
            f"nohup {self._command} >runtime.log 2>&1 </dev/null & echo $! >pid || kill $!; cat pid"
        )
        output = result.check(f"starting {self._program}").strip()
        if not output.isdigit():
            raise FleetError(f"{self._device.serial}: {self._program} did not start: {await self._log_end()}")
        self._pid = int(output)
        try:
            async with asyncio.timeout(self._start_seconds):
                self._port = await self._wait_port()
        except TimeoutError as error:
            raise FleetError(
                f"{self._device.serial}: {self._program} does not listen after {self._start_seconds:.0f} s: "
                f"{await self._log_end()}"
            ) from error

    async def connect(self) -> socket.socket:
        """Return a new connection to the runtime. Raises FleetError."""
        if self._port is None:
            raise FleetError(f"{self._device.serial}: {self._program} is not started")
        try:
            return await self._device.open_socket(f"tcp:{self._port}")
        except StreamRefused as error:
            output = await self._log_end()
            raise FleetError(
                f"{self._device.serial}: {self._program} is gone from port {self._port}: {output}"
            ) from error

    async def stop(self) -> None:
        """Stop the runtime that runs in this home, also one that an earlier host left behind."""
        pid = await self._read_number("pid")
        if pid is not None and await self._runs(pid):
            await self._device.shell(f"kill {pid}")
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._wait_gone(pid)
            except TimeoutError:
                await self._device.shell(f"kill -9 {pid}")
        await self._device.shell(f"rm -f {shlex.quote(self._home)}/pid {shlex.quote(self._home)}/port")
        self._pid = self._port = None

    async def _wait_port(self) -> int:
        assert self._pid is not None
        wait = _POLL_SECONDS
        while (port := await self._read_number("port")) is None:
            if not await self._runs(self._pid):
                raise FleetError(
                    f"{self._device.serial}: {self._program} ended at once: {await self._log_end()}"
                )
            await asyncio.sleep(wait)
            wait = min(2 * wait, _MAX_POLL_SECONDS)
        if not 0 < port < 65536:
            raise FleetError(
                f"{self._device.serial}: {self._program} reports port {port}, which is none; start again"
            )
        return port

    async def _wait_gone(self, pid: int) -> None:
        while await self._runs(pid):
            await asyncio.sleep(_POLL_SECONDS)

    async def _runs(self, pid: int) -> bool:
        # A process number may have gone to someone else meanwhile: only one of ours counts.
        found = await self._device.shell(f"pidof {shlex.quote(self._program)}")
        return str(pid) in found.stdout.decode(errors="replace").split()

    async def _read_number(self, name: str) -> int | None:
        result = await self._device.shell(f"cat {shlex.quote(f'{self._home}/{name}')}")
        text = result.stdout.strip()
        return int(text) if result.exit_code == 0 and text.isdigit() else None

    async def _log_end(self) -> str:
        result = await self._device.shell(f"tail -n 3 {shlex.quote(self._home)}/runtime.log")
        return result.stdout.decode(errors="replace").strip() or "its log is empty"


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _link(name: str, digest: str, *, copy: bool) -> str:
    parts = name.split("/")
    if (
        not name
        or name.startswith("/")
        or any(part in ("", ".", "..") for part in parts)
        or parts[0] == "store"
    ):
        raise FleetError(f"{name!r} cannot be a file on the phone: use a relative name without '..'")
    if copy:
        link = f"cp store/{digest} {shlex.quote(name)}"
    else:
        link = f"ln -sf {'../' * (len(parts) - 1)}store/{digest} {shlex.quote(name)}"
    parent = posixpath.dirname(name)
    return f"mkdir -p {shlex.quote(parent)} && {link}" if parent else link
