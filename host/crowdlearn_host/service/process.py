"""The process of a run under way, as the service sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from .jobs import Job
from .worker import FAILED, HELD_UP, STOPPED

LINE_BYTES = 1 << 20
LAST_WORDS = 20
"""Lines of a process's standard error that are kept, for the reason if it dies."""
STOP_SECONDS = 30.0
"""The seconds in which a run that is asked to stop has to write what it holds."""

OnReport = Callable[[Job, str, dict[str, Any]], None]


class RunProcess:
    """The process of `job`. `port` is where its devices connect, 0 until it listens; `result` is what it told
    at its end, `reason` why it failed. Samples and mini-batches are those of this process.
    """

    def __init__(self, job: Job, description: Path, run: Path, on_report: OnReport) -> None:
        self.job = job
        self.port = 0
        self.epoch = self.samples = self.mini_batches = 0
        self.accuracy: float | None = None
        self.result: dict[str, Any] | None = None
        self.reason = ""
        self._description, self._run, self._on_report = description, run, on_report
        self._process: asyncio.subprocess.Process | None = None
        self.stopping = False
        """It was asked to stop."""
        self._last: deque[str] = deque(maxlen=LAST_WORDS)

    @property
    def pid(self) -> int:
        """Return the number of its process; 0 if it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def run(self) -> int:
        """Have it run to its end; return its exit code, negative for a signal. It is stopped if this is
        cancelled.
        """
        if self.stopping:
            return STOPPED
        words = [str(self._description), str(self._run), str(os.getpid())]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "crowdlearn_host.service.worker",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
        )
        try:
            hearing = [self._hear(), self._overhear()]
            if self.stopping:  # it was asked for while the process was made
                hearing.append(self._end())
            await asyncio.gather(*hearing)
            return await self._process.wait()
        finally:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()

    async def stop(self) -> None:
        """Ask it to stop where it can go on later, and wait; it is killed if it does not."""
        self.stopping = True
        await self._end()

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _hear(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in _lines(self._process.stdout):
            try:
                content = json.loads(line)
                name = str(content.pop("event"))
            except (ValueError, AttributeError, KeyError):
                continue
            self._take(name, content)

    def _take(self, name: str, fields: dict[str, Any]) -> None:
        match name:
            case "listening":
                self.port = int(fields["port"])
            case "progress":
                self.epoch, self.samples = int(fields["epoch"]), int(fields["samples"])
                self.mini_batches = int(fields["mini_batches"])
            case "evaluated":
                self.accuracy = fields.get("test_accuracy")
            case "ended":
                self.result = fields
            case "failed":
                self.reason = str(fields["reason"])
        self._on_report(self.job, name, fields)

    async def _overhear(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in _lines(self._process.stderr):
            self._last.append(line.decode(errors="replace").rstrip())

    def why(self, code: int) -> str:
        """Return why it ended with this exit code, if it did not end well."""
        if code in (FAILED, HELD_UP) and self.reason:
            return self.reason
        if code == STOPPED and self.stopping:
            return "stopped"
        text = f"; it said: {self._last[-1]}" if self._last else ""
        return f"its process ended with {'signal' if code < 0 else 'exit code'} {abs(code)}{text}"


async def _lines(source: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a process; what is longer than LINE_BYTES, as a progress bar may be, is left out."""
    while True:
        try:
            line = await source.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line
