"""A process that Android isolates, begun and ended as Android would: a Java VM, held by Landlock."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress

PROGRAMS = "CROWDLEARN_PLAYED_PROGRAMS"
"""The variable with the environment of isolated processes, as JSON: jvm.py makes it. Without, none begin."""


class ProgramProcess:
    """A process of ProgramService (isolated.py), which was bound and got the line to a device."""

    def __init__(self, classpath: str, environment: dict[str, str], line: int) -> None:
        command = [sys.executable, "-m", "benchmarks.android.app.isolated", classpath, str(line)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, pass_fds=[line], env={**os.environ, **environment}
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        """Wait until it has ended by itself; return how."""
        return self._process.wait()

    def unbind(self) -> int:
        """Have the service end, as Android does once nobody is bound to it; how it did."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        return self._process.wait()
