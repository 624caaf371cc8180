"""The warden: a process that is forked while nothing secret is in memory, and forks one for each program.

A device begins it before it reads its identity. It ends with the device, and what it forked ends with it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import struct
from contextlib import suppress

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.executor import chosen

from .confined import serve
from .isolated import IsolatedExecutor

log = logging.getLogger("crowdlearn")

_DIE_WITH_PARENT = 1
_NUMBER = struct.Struct("<q")
_START, _END, _BURY = b"s", b"e", b"b"
"""Requests: fork; end a process, and answer how it ended; end one without an answer."""
MAX_NEEDS = 1 << 60


class Warden:
    """The device's end of the line to its warden."""

    def __init__(self) -> None:
        """Fork to be called while this process has one thread, and no secrets."""
        self._line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._logged = ""
        device = os.getpid()
        if os.fork() == 0:
            try:
                self._line.close()
                _watch(other, device)
            finally:
                os._exit(0)
        other.close()

    def load(self, pte: bytes, needs: int = 0) -> IsolatedExecutor:
        """Return the program in a process of its own. Its memory is limited to what the device can spare, and
        to a few times what it `needs` (bytes) if that is known. Raises ProgramError if it is refused.
        """
        executor = IsolatedExecutor(pte, self, min(needs, MAX_NEEDS))
        if executor.held_by != self._logged:
            self._logged = executor.held_by
            log.info("programs run in a process of their own, held by %s", self._logged)
        return executor

    def start(self) -> tuple[socket.socket, int]:
        """Return the line to a new process, and its number. Raises ProgramError if there is none."""
        line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            socket.send_fds(self._line, [_START], [other.fileno()])
            pid = _NUMBER.unpack(self._line.recv(_NUMBER.size))[0]
            if pid > 0:
                return line, pid
            why = os.strerror(-pid)
        except (OSError, struct.error) as error:
            why = str(error)
        finally:
            other.close()
        line.close()
        raise ProgramError(f"no process for programs can be started ({why}); start the device runtime again")

    def end(self, pid: int) -> int:
        """Have a process end, and return how it did: its exit code, or a signal's number below zero."""
        try:
            self._line.send(_END + _NUMBER.pack(pid))
            return int(_NUMBER.unpack(self._line.recv(_NUMBER.size))[0])
        except (OSError, struct.error):
            return 0

    def bury(self, pid: int) -> None:
        """Have a process end. Nothing is answered, so this may come between a request and its answer, from
        any thread: the garbage collector calls it where it likes.
        """
        with suppress(OSError):  # it was closed, and its children have ended
            self._line.send(_BURY + _NUMBER.pack(pid))

    def close(self) -> None:
        """End the warden and all that it forked."""
        self._line.close()


def _watch(line: socket.socket, device: int) -> None:
    """Serve the device's requests to fork and to bury, until its end of the line closes."""
    _end_with(device)
    for number in (signal.SIGINT, signal.SIGTERM):  # a device that is asked to stop hands over what it holds
        signal.signal(number, signal.SIG_IGN)
    children: set[int] = set()
    prepared = False
    while True:
        packet, descriptors, _, _ = socket.recv_fds(line, 64, 1)
        if not packet:
            break
        if packet == _START:
            if not prepared:
                with suppress(ProgramError, ImportError):
                    chosen().prepare()  # once for all of them
                prepared = True
            line.send(_NUMBER.pack(pid := _fork(line, descriptors[0])))
            children |= {pid} if pid > 0 else set()
            os.close(descriptors[0])
        else:
            (pid,) = _NUMBER.unpack(packet[1:])
            code = _buried(pid) if pid in children else 0
            children.discard(pid)
            if packet[:1] == _END:
                line.send(_NUMBER.pack(code))
    for pid in children:
        _buried(pid)


def _fork(line: socket.socket, descriptor: int) -> int:
    warden = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        return -(error.errno or 1)
    if pid == 0:
        try:
            _end_with(warden)
            line.close()
            serve(socket.socket(fileno=descriptor))
        finally:
            os._exit(0)
    return pid


def _buried(pid: int) -> int:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)  # which does nothing to one that has ended, and not been waited for
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, where it knows how."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
