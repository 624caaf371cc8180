"""A process of the app for tests: events of Android's go in, what the app does comes out."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from crowdlearn_device.transport.abstract_socket import PREFIX

from benchmarks.android.app.isolated_process import PROGRAMS
from benchmarks.android.jvm import JavaVm

SECONDS = 120.0


def prefix_of(home: Path) -> str:
    """Return the prefix of the sockets of an app whose folder this is."""
    return hashlib.sha256(bytes(home)).hexdigest()[:16]


class AppProcess:
    """`told` is all that the app did so far: lists of words (benchmarks/android/app/player.py)."""

    def __init__(
        self, classes: Sequence[Path], home: Path, *options: str, programs: JavaVm | None = None
    ) -> None:
        """Start it; `programs` is where its isolated processes run, without which it has none."""
        words = ["-m", "benchmarks.android.app.player", ":".join(map(str, classes)), str(home), *options]
        self.reports: list[list[Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        environment = {**os.environ, PREFIX: prefix_of(home)}
        if programs is not None:
            environment[PROGRAMS] = json.dumps(programs.of_isolated())
        self._process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> AppProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def happen(self, *event: str) -> list[list[Any]]:
        """Have an event of Android's happen; return what came of it at once."""
        assert self._process.stdin is not None
        before = len(self.reports)
        self._process.stdin.write(" ".join(event) + "\n")
        self._process.stdin.flush()
        self.until(lambda told: told == ["done", event[0]])
        return self.reports[before:-1]

    def until(self, wanted: Callable[[list[Any]], bool]) -> list[Any]:
        """Wait for something that the app does from now on; return it."""
        while True:
            line = self._lines.get(timeout=SECONDS)
            assert line, f"the app has ended: {self.reports[-5:]}"
            self.reports.append(json.loads(line))
            if wanted(self.reports[-1]):
                return self.reports[-1]

    def kill(self) -> None:
        """End the process as Android's low-memory killer does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()

    def sleep(self, asleep: bool) -> None:
        """Have the processor sleep, or wake up."""
        self._process.send_signal(signal.SIGSTOP if asleep else signal.SIGCONT)

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:  # it was closed
            pass
        self._lines.put("")
