"""An isolated process of the app on a Java VM: `python -m benchmarks.android.app.isolated CLASSPATH LINE`.

ProgramService gets the descriptor LINE, and ends when the input does, as it would when Android unbinds it.
As Android isolates a process from the app's files and the network, Landlock does here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import jpype
from crowdlearn_device.platform.confinement import confine
from jpype import JClass, JImplements, JOverride

SERVICE = "org.crowdlearn.device.ProgramService"
READABLE = ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev")
"""Of the system: what a Java VM of this computer takes."""


class Isolated:
    """Whatever of Android the service calls."""

    def __init__(self, line: int) -> None:
        self._line = line

    def call(self, this: Any, name: str, given: list[Any]) -> Any:
        """Answer a call of a method or constructor of `this`, or for a constant."""
        method = name.removeprefix("android.os.")
        if method == "Parcel.readFileDescriptor":
            return JClass("android.os.ParcelFileDescriptor")(None)
        if method == "ParcelFileDescriptor.detachFd":
            return self._line
        if method == "Process.myPid":
            return os.getpid()
        if method == "Process.killProcess":
            os.kill(int(given[0]), signal.SIGKILL)
        if name.startswith("android.util.Log."):
            print(*given, file=sys.stderr, flush=True)
            return 0
        return given[0] if name.rpartition(".")[2].isupper() else None


def main() -> None:
    classpath, line = sys.argv[1].split(":"), int(sys.argv[2])
    own = os.environ["CROWDLEARN_JVM"]
    programs = [Path(sys.prefix), Path(sys.base_prefix), Path(jpype.getDefaultJVMPath()).resolve().parents[2]]
    confine([*map(Path, (*READABLE, *classpath, own)), *programs], [Path("/dev/null")], network=False)
    every = [*classpath, *os.environ["CLASSPATH"].split(":")]
    jpype.startJVM(
        "-XX:-UsePerfData", "-Xshare:auto", f"-Djava.library.path={own}", classpath=every, convertStrings=True
    )
    played = Isolated(line)

    @JImplements("org.crowdlearn.check.Played$Player")
    class Player:
        @JOverride  # type: ignore[untyped-decorator]
        def call(self, this: Any, name: Any, given: Any) -> Any:
            return played.call(this, str(name), list(given))

    JClass("org.crowdlearn.check.Played").player = Player()
    service = JClass(SERVICE)()
    binder = service.onBind(None)
    binder.onTransact(1, JClass("android.os.Parcel")(), None, 0)
    # What Java runs in its own threads ends the process; the input's end unbinds it.
    threading.current_thread().name = "main"
    sys.stdin.buffer.read()
    service.onUnbind(None)


if __name__ == "__main__":
    main()
