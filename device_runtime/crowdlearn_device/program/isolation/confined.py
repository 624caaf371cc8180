"""The process that a program runs in: it loads one, and runs its methods on memory that it shares."""

from __future__ import annotations

import gc
import operator
import os
import resource
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.platform.confinement import confine, landlock_version
from crowdlearn_device.platform.seccomp import only_compute
from crowdlearn_device.platform.shared_memory import SharedMemory
from crowdlearn_device.program.executor import Executor, chosen, load_program
from crowdlearn_device.protocol.frames import Array

from .messages import (
    DEFINE,
    ERROR,
    FORGET,
    GROW,
    LOAD,
    LOADED,
    MAX_PACKET,
    MEMORY,
    NUMBER,
    RUN,
    SAME,
    SHARE,
    Place,
    Spec,
    call_of,
    offsets,
    outputs_message,
)

SPARE = 256 << 20
"""Bytes that a program gets beyond four times what it says that it needs."""
FILES = 32
_NUMBERS = array("i")
_BESIDE = socket.CMSG_SPACE(_NUMBERS.itemsize)
"""Bytes that a descriptor takes beside a packet."""
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/system", "/apex", "/vendor/lib64")
FACTS = ("/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/sys/devices/system/cpu")
"""Files that libraries look up when they count processors and load code late: none of it is a user's."""
DEVICES = ("/dev/null", "/dev/urandom")


def serve(line: socket.socket) -> None:
    """Load a program and run its methods, until the other end closes. Never returns normally."""
    only = os.dup2(line.detach(), 3)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(4, 1 << 16)
    line = socket.socket(fileno=only)
    try:
        _serve(line)
    except BaseException as error:  # what is told last; then the process ends
        with suppress(OSError):
            line.send(ERROR + f"{type(error).__name__}: {error}".encode()[:1000])
    os._exit(0)


def _serve(line: socket.socket) -> None:
    packet, (descriptor,), _, _ = socket.recv_fds(line, MAX_PACKET, 1)
    if packet[:1] != LOAD:
        raise ProgramError("no program was given")
    size, needs = MEMORY.unpack(packet[1:])
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # the first to go where memory is short
    held = [*_held_to_files(), *_held_to_memory(needs)]
    chosen().warm_up()
    if only_compute(opens=bool(landlock_version())):
        held.append("seccomp")
    shared = SharedMemory(descriptor, size)
    os.close(descriptor)
    pte = bytes(shared.array(0, np.dtype("uint8"), (size,)))
    shared.gone()
    try:
        executor = load_program(pte)
    except ProgramError as error:
        line.send(ERROR + str(error).encode()[:1000])
        return
    line.send(LOADED + ", ".join(held).encode())
    _Calls(line, executor).answer()


def _descriptors(beside: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came beside a packet."""
    for level, kind, data in beside:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return list(array("i", data[: len(data) // _NUMBERS.itemsize * _NUMBERS.itemsize]))
    return []


def _held_to_files() -> list[str]:
    readable = map(Path, (*LIBRARIES, *FACTS, "/dev/urandom"))
    if confine(readable, map(Path, DEVICES), network=False):
        return [f"Landlock {landlock_version()}"]
    return []


def _held_to_memory(needs: int) -> list[str]:
    page = os.sysconf("SC_PAGE_SIZE")
    most = os.sysconf("SC_PHYS_PAGES") * page // 2
    if needs:
        most = min(most, SPARE + 4 * needs)
    now = _data_bytes()
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    limit = now + most if hard == resource.RLIM_INFINITY else min(now + most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, FILES),
    ):
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))
    return [f"{most >> 20} MB of memory"]


def _data_bytes() -> int:
    """Return the bytes of this process that RLIMIT_DATA counts."""
    with suppress(OSError, IndexError, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    return 0


class _Call:
    def __init__(self, method: str, inputs: list[Array]) -> None:
        self.method, self.inputs = method, inputs
        self.specs: list[Spec] | None = None
        self.outputs: list[Array] = []
        """The arrays of the last run: where they are the same again, so are their places."""
        self.views: list[Array] = []


def _same(arrays: Sequence[Array], others: Sequence[Array]) -> bool:
    """Return whether both are the very same arrays, of any dtype and shape [...]."""
    return len(arrays) == len(others) and all(map(operator.is_, arrays, others))


class _Calls:
    """The calls that the device has defined, and the memory that they work on."""

    def __init__(self, line: socket.socket, executor: Executor) -> None:
        self._line, self._executor = line, executor
        self._memory: dict[int, SharedMemory] = {}
        self._outputs = 0
        """Number of the memory for outputs; 0 where there is none yet."""
        self._calls: dict[int, _Call] = {}
        self._packet = bytearray(MAX_PACKET)
        """Room for what arrives, once for all: to make it anew takes more than most packets do."""

    def answer(self) -> None:
        """Serve the device's requests, until its end of the line closes."""
        while True:
            size, beside, _, _ = self._line.recvmsg_into([self._packet], _BESIDE)
            if not size:
                return
            kind = self._packet[:1]
            if kind == RUN:
                self._run(self._calls[NUMBER.unpack_from(self._packet, 1)[0]])
                continue
            packet, descriptors = bytes(self._packet[:size]), _descriptors(beside)
            if kind == DEFINE:
                number, method, places = call_of(packet)
                self._calls[number] = _Call(method, [self._array(place) for place in places])
                self._executor.hold([x for call in self._calls.values() for x in call.inputs])
                self._run(self._calls[number])
            elif kind == SHARE:
                self._share(packet, descriptors)
            elif kind == FORGET:
                self._forget(packet)

    def _array(self, place: Place) -> Array:
        dtype, shape = np.dtype(place.spec.dtype), place.spec.shape
        if not place.spec.size:
            return np.empty(shape, dtype)
        return self._memory[place.memory].array(place.offset, dtype, shape)

    def _share(self, packet: bytes, descriptors: list[int]) -> int:
        number, size = MEMORY.unpack(packet[1:])
        self._memory[number] = SharedMemory(descriptors[0], size)
        os.close(descriptors[0])
        return int(number)

    def _forget(self, packet: bytes) -> None:
        self._calls.clear()
        self._executor.hold(())
        for at in range(1, len(packet), NUMBER.size):
            self._memory.pop(NUMBER.unpack_from(packet, at)[0], None)
        gc.collect(0)

    def _run(self, call: _Call) -> None:
        try:
            outputs = self._executor.run(call.method, call.inputs, borrowed=True)
            answer = SAME
            if call.specs is None or not _same(outputs, call.outputs):
                specs = [Spec.of(output) for output in outputs]
                if specs != call.specs:
                    answer, call.specs = outputs_message(specs), specs
                    call.views = self._room(call, specs)
                call.outputs = outputs
        except (ProgramError, MemoryError) as error:
            call.specs = None
            self._line.send(ERROR + (str(error) or "out of memory").encode()[:1000])
            return
        for view, output in zip(call.views, outputs, strict=True):
            view[...] = output
        self._line.send(answer)

    def _room(self, call: _Call, specs: list[Spec]) -> list[Array]:
        """Return where the outputs of a call go, in more memory if there is not enough."""
        starts, size = offsets(specs)
        if size and (not self._outputs or self._memory[self._outputs].size < size):
            for other in self._calls.values():
                if other is not call:
                    other.specs, other.views = None, []
            self._line.send(GROW + NUMBER.pack(size))
            packet, descriptors, _, _ = socket.recv_fds(self._line, MAX_PACKET, 1)
            if packet[:1] != SHARE:
                raise ProgramError("no memory for outputs was given")
            old, self._outputs = self._outputs, self._share(packet, descriptors)
            self._memory.pop(old, None)
        if not size:
            return [np.empty(spec.shape, spec.dtype) for spec in specs]
        room = self._memory[self._outputs]
        return [
            room.array(start, np.dtype(spec.dtype), spec.shape)
            for start, spec in zip(starts, specs, strict=True)
        ]
