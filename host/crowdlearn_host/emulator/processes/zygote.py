"""Mother of the programs of all phones: imports what is heavy once, then forks, as Android does.

`python -m crowdlearn_host.emulator.processes.zygote HOME MODULE...` listens on HOME/zygote for phones. A
program shares the memory of the imported modules until it writes to it. Programs die when their phone's line
closes, or when the zygote dies; the zygote leaves with the last phone.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from crowdlearn_device.platform.confinement import confine

from crowdlearn_host.emulator.processes.limits import Limits
from crowdlearn_host.emulator.processes.parent import die_with_parent, schedule_as_batch

SOCKET_NAME = "zygote"
MAX_REQUEST = 1 << 16
FIRST_PHONE_SECONDS = 60.0


class Zygote:
    """A process that forks a program for each request, and reports its end to its phone."""

    def __init__(self, listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._phones: set[socket.socket] = set()
        self._children: dict[int, tuple[int, socket.socket]] = {}
        self._watch(listener, self._admit)

    def serve(self) -> None:
        """Serve phones until the last one is gone."""
        timeout: float | None = FIRST_PHONE_SECONDS
        while ready := self._selector.select(timeout):
            for key, _ in ready:
                key.data()
            if not self._phones:
                return
            timeout = None

    def _watch(self, file: socket.socket | int, act: Callable[[], None]) -> None:
        self._selector.register(file, selectors.EVENT_READ, act)

    def _admit(self) -> None:
        phone, _ = self._listener.accept()
        # A phone that is stopped and does not listen must not hold up the others.
        phone.setblocking(False)
        self._phones.add(phone)
        self._watch(phone, lambda: self._hear(phone))

    def _hear(self, phone: socket.socket) -> None:
        try:
            data, outputs, _, _ = socket.recv_fds(phone, MAX_REQUEST, 2)
        except ConnectionResetError:
            data, outputs = b"", []
        if not data:
            self._lose(phone)
            return
        request = json.loads(data)
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _tell(phone, {"errno": error.errno or 0})
            return
        if pid == 0:
            self._become(request, outputs, zygote)
        for descriptor in outputs:
            os.close(descriptor)
        handle = os.pidfd_open(pid)
        self._children[handle] = (pid, phone)
        self._watch(handle, lambda: self._bury(handle))
        _tell(phone, {"pid": pid})

    def _become(self, request: dict[str, Any], outputs: list[int], zygote: int) -> NoReturn:
        code = 1
        try:
            die_with_parent(zygote)
            os.setsid()
            self._selector.close()
            for line in (self._listener, *self._phones):
                line.close()
            for handle in self._children:
                os.close(handle)
            _take_outputs(outputs)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            if limits := request["limits"]:
                folders = tuple(map(Path, limits["folders"]))
                Limits(**{**limits, "folders": folders}).add(os.getpid())
            confine(map(Path, request["readable"]), map(Path, request["writable"]))
            code = run_entry(request["entry"], request["words"])
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _bury(self, handle: int) -> None:
        pid, phone = self._children.pop(handle)
        self._selector.unregister(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        # What the program itself started goes with it.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if phone in self._phones:
            _tell(phone, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})

    def _lose(self, phone: socket.socket) -> None:
        self._phones.discard(phone)
        self._selector.unregister(phone)
        phone.close()
        for pid, owner in self._children.values():
            if owner is phone:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)


def run_entry(entry: str, words: Sequence[str]) -> int:
    """Call MODULE:FUNCTION with the arguments; its result, or that of sys.exit, is the exit code."""
    module, _, function = entry.partition(":")
    sys.argv = list(words)
    try:
        result = getattr(importlib.import_module(module), function)(list(words[1:]))
    except SystemExit as leave:
        result = leave.code
    if isinstance(result, str):
        print(result, file=sys.stderr)
        return 1
    return int(result or 0)


def main(home: Path, modules: Sequence[str]) -> None:
    """Listen in the folder, then import the modules, then serve."""
    schedule_as_batch()
    os.chdir(home)
    Path(SOCKET_NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(SOCKET_NAME)
    listener.listen(1024)
    # Whoever started this process reads one line: from now on phones can queue up.
    print("listening", flush=True)
    os.dup2(2, 1)
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            traceback.print_exc()
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise SystemExit(f"{threads} threads after importing {', '.join(modules)}: forking them is not safe")
    gc.collect()
    # Collections in the children would write to every object, and so copy the pages that are to be shared.
    gc.freeze()
    Zygote(listener).serve()
    # Taking down the imported modules in order would only keep the last phone's memory longer.
    os._exit(0)


def _take_outputs(outputs: Sequence[int]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in zip((null, *outputs), (0, 1, 2), strict=True):
        os.dup2(source, target)
        os.close(source)


def _tell(phone: socket.socket, news: dict[str, int]) -> None:
    with suppress(OSError):
        phone.send(json.dumps(news).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
