"""Programs of the app: each in a process that Android isolates, where it can."""

from __future__ import annotations

import contextlib
import logging
import socket

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.program.executor import Executor, load_program
from crowdlearn_device.program.isolation.isolated import IsolatedExecutor

from .phone import Phone
from .status import Status

log = logging.getLogger("crowdlearn")

ISOLATED = "a process for each, which Android isolates"
OWN = "the app's own process, which trusts its hosts"
FAILED = "no process for a program could be started; start the app again"


class Programs:
    """The source of processes for programs: Java's half starts and ends them."""

    def __init__(self, phone: Phone, status: Status, *, isolated: bool = True) -> None:
        """Begin; `status` gets where programs run, and the owner may want none `isolated`."""
        self._phone, self._status, self._isolated = phone, status, isolated

    def load(self, pte: bytes, needs: int = 0) -> Executor:
        """Return the program in a process of its own, or in this one where Android has no other. Raises
        ProgramError if it is refused, or no process begins.
        """
        if self._isolated:
            with contextlib.suppress(NoProcesses):
                executor = IsolatedExecutor(pte, self, needs)
                self._tell(ISOLATED)
                return executor
        self._tell(OWN)
        return load_program(pte)

    def start(self) -> tuple[socket.socket, int]:
        """Return the line to a new process, and its number. Raises ProgramError if there is none."""
        line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            number = int(self._phone.program(other.fileno()))
        if number > 0:
            return line, number
        line.close()
        raise ProgramError(FAILED) if number else NoProcesses(OWN)

    def end(self, pid: int) -> int:
        """Have a process end; how it did is known to Android alone: 0."""
        self._phone.endProgram(pid)
        return 0

    def bury(self, pid: int) -> None:
        """Have a process end: Java answers nothing that could be taken for another answer."""
        self._phone.endProgram(pid)

    def _tell(self, where: str) -> None:
        if where != self._status.programs:
            self._status.programs = where
            log.info("programs run in %s", where)


class NoProcesses(ProgramError):
    """Android has no processes for programs."""
