"""A phone's line to the zygote, which is started when the first phone of a state folder needs it."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crowdlearn_host.common.files import turn
from crowdlearn_host.emulator.processes.zygote import MAX_REQUEST, SOCKET_NAME

LOG_NAME = "zygote.txt"
TRACES = (SOCKET_NAME, LOG_NAME, f".{SOCKET_NAME}.lock")
"""The files that the process from which phones are forked leaves in their home."""
# Threads that a library starts at import would not survive the fork.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_KILLED = -9


@dataclass(frozen=True)
class Child:
    """A process of this phone; `code` becomes its exit code, negative for a signal."""

    pid: int
    code: "asyncio.Future[int]"


class Spawner:
    """A source of processes: the zygote of the state folder `home` forks them. `modules` are what it imports
    beforehand.
    """

    def __init__(self, home: Path, modules: Sequence[str]) -> None:
        self._home = home
        self._modules = tuple(modules)
        self._line: socket.socket | None = None
        self._zygote: subprocess.Popen[bytes] | None = None
        self._children: dict[int, Child] = {}
        self._asked: asyncio.Queue[asyncio.Future[Child]] = asyncio.Queue()
        self._listening: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def spawn(
        self,
        entry: str,
        words: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        outputs: tuple[int, int],
        readable: Sequence[str],
        writable: Sequence[str],
        limits: Mapping[str, Any] | None = None,
    ) -> Child:
        """Start MODULE:FUNCTION with its arguments, standard output and standard error given as descriptors.
        It is confined to files at or below the paths, and capped by `limits` (of limits.py, as a dictionary)
        before it starts anything itself.

        Raises OSError when the zygote cannot be reached.
        """
        request = {
            "entry": entry,
            "words": list(words),
            "folder": str(folder),
            "environment": dict(environment),
            "readable": list(readable),
            "writable": list(writable),
            "limits": None if limits is None else {**limits, "folders": list(map(str, limits["folders"]))},
        }
        encoded = json.dumps(request).encode()
        if len(encoded) > MAX_REQUEST:
            raise OSError(7, os.strerror(7), words[0])
        try:
            return await self._ask(encoded, outputs)
        except ConnectionError:
            # The zygote left, or died, just when it was asked: the next one will do it.
            return await self._ask(encoded, outputs)

    async def close(self) -> None:
        """Drop the line: the zygote kills what still runs."""
        if self._listening:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _ask(self, encoded: bytes, outputs: tuple[int, int]) -> Child:
        async with self._connecting:
            if self._line is None:
                self._line = await asyncio.to_thread(self._connect)
                self._listening = asyncio.create_task(self._listen(self._line))
        started: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        try:
            socket.send_fds(self._line, [encoded], outputs)
        except ConnectionError:
            if self._listening:
                await self._listening
            raise
        self._asked.put_nowait(started)
        return await started

    async def _listen(self, line: socket.socket) -> None:
        try:
            while data := await asyncio.get_running_loop().sock_recv(line, MAX_REQUEST):
                self._hear(json.loads(data))
        except OSError:
            pass
        finally:
            self._forget(line)

    def _hear(self, news: dict[str, int]) -> None:
        if "code" in news:
            self._children.pop(news["pid"]).code.set_result(news["code"])
            return
        waiting = self._asked.get_nowait()
        if "errno" in news:
            if not waiting.done():
                waiting.set_exception(OSError(news["errno"], os.strerror(news["errno"])))
            return
        pid = news["pid"]
        child = self._children[pid] = Child(pid, asyncio.get_running_loop().create_future())
        if waiting.done():
            # Whoever asked has given up meanwhile.
            os.kill(pid, signal.SIGKILL)
        else:
            waiting.set_result(child)

    def _forget(self, line: socket.socket) -> None:
        # The zygote is gone or not ours any more, and its children with it; the next spawn starts another.
        line.close()
        self._line = None
        while not self._asked.empty():
            waiting = self._asked.get_nowait()
            if not waiting.done():
                waiting.set_exception(ConnectionResetError("the zygote is gone"))
        for child in self._children.values():
            if not child.code.done():
                child.code.set_result(_KILLED)
        self._children.clear()
        if self._zygote:
            self._zygote.poll()

    def _connect(self) -> socket.socket:
        with turn(self._home / "zygote"):
            with suppress(OSError):
                return self._dial()
            self._start()
            return self._dial()

    def _dial(self) -> socket.socket:
        handle = os.open(self._home, os.O_RDONLY)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Through the open folder the path is short whatever the folder's own path is.
            line.connect(f"/proc/self/fd/{handle}/{SOCKET_NAME}")
        except OSError:
            line.close()
            raise
        finally:
            os.close(handle)
        line.setblocking(False)
        return line

    def _start(self) -> None:
        with (self._home / LOG_NAME).open("ab") as log:
            self._zygote = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "crowdlearn_host.emulator.processes.zygote",
                    str(self._home),
                    *self._modules,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **_ONE_THREAD},
            )
        assert self._zygote.stdout
        with self._zygote.stdout as lines:
            if not lines.readline():
                raise OSError(f"the zygote did not start: see {self._home / LOG_NAME}")
