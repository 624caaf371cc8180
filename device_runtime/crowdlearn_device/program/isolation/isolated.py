"""An executor whose program runs in a process of its own, on memory that both see."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import signal
import socket
import struct
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.platform.shared_memory import SharedMemory, new_file, new_memory
from crowdlearn_device.program.executor import check_identifier
from crowdlearn_device.program.manifest import TRAIN_STEP
from crowdlearn_device.protocol.frames import Array

from .messages import (
    DONE,
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
    defined,
    known,
    offsets,
    outputs_of,
)

LOAD_SECONDS, RUN_SECONDS = 240, 120
"""The most seconds that a program may take to load, and a method to run, before its process is ended."""
MOST_CALLS = 64
"""The most calls, by method and inputs, that the process keeps at once."""
MOST_FORGOTTEN = 4096
"""Numbers of memory in one message."""
MAX_MEMORY = 1 << 40
SEND_BYTES = 1 << 20


class Starter(Protocol):
    """A source of processes that wait for a program; it ends them, too."""

    def start(self) -> tuple[socket.socket, int]: ...

    def end(self, pid: int) -> int:
        """End a process; how it ended."""
        ...

    def bury(self, pid: int) -> None:
        """Have a process end, at any moment and from any thread."""
        ...


class IsolatedExecutor:
    """An executor that runs a .pte in a process of its own. A program that ends its process, or does not come
    back, is reported by ProgramError; the next run begins another process. Arrays of `zeros` are never
    copied; others are, in, and back for a `train_step`; outputs are, once.
    """

    def __init__(self, pte: bytes, starter: Starter, needs: int = 0) -> None:
        check_identifier(pte)
        self._pte, self._starter, self._needs = pte, starter, needs
        self._name = hashlib.sha256(pte).hexdigest()
        self._process: _Process | None = None
        self._places: dict[int, tuple[weakref.ref[Array], int]] = {}
        """The array, and the number of its memory, by an array's id."""
        self._calls: dict[Any, _Call] = {}
        self._numbers = 0
        self._inputs: tuple[int, SharedMemory] | None = None
        self._outputs: SharedMemory | None = None
        self.held_by = self._begun().held_by
        """The means that confine the process, in words."""

    @property
    def pid(self) -> int:
        """Return the number of its process."""
        return self._begun().pid

    def most_memory(self) -> int:
        """Return the most bytes that its process has held, libraries included; 0 if it is not known."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
        return 0

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Return outputs of `method`; `borrowed` ones are valid until the next run. Raises ProgramError if it
        is refused, or its process ends.

        Arrays are of the ports' dtypes and shapes [rows, ...].
        """
        process = self._begun()
        key = (method, *[self._signature(x) for x in inputs])
        call = self._calls.get(key)
        if call is None:
            call = self._new_call(process, method, inputs)
            request = defined(call.number, method, call.places)
        else:
            request = RUN + NUMBER.pack(call.number)
        for number, view in call.copied:
            view[...] = inputs[number]
        try:
            outputs = self._outputs_of(process, call, process.ask(request, method), method)
        except ProgramError:
            self._calls.pop(key, None)
            raise
        self._calls[key] = call
        if method.startswith(TRAIN_STEP):  # or its other form
            for number, view in call.copied:
                if inputs[number].flags.writeable and inputs[number].flags.c_contiguous:
                    inputs[number][...] = view
        return list(outputs) if borrowed else [output.copy() for output in outputs]

    def hold(self, arrays: Iterable[Array]) -> None:
        """Forget what was held, so that its memory goes; what `zeros` gave is known by itself.

        Arrays are of any dtype and shape [...].
        """
        self._calls.clear()
        if self._process is not None and not self._process.ended:
            self._process.forget()

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...] in memory that the program's process shares."""
        spec = Spec(dtype, tuple(shape))
        if not spec.size:
            return np.zeros(shape, dtype)
        process = self._begun()
        number, memory = process.share(spec.size)
        array: Array = memory.array(0, np.dtype(dtype), shape)
        weakref.finalize(memory._bytes, process.dropped.append, number)
        gone = functools.partial(_forget, self._places, id(array))
        self._places[id(array)] = weakref.ref(array, gone), number
        return array

    def _begun(self) -> _Process:
        if self._process is None or self._process.ended:
            self._calls.clear()
            self._places.clear()  # memory of a process that is gone: from now on copied
            self._inputs = self._outputs = None
            self._process = _Process(self._starter, self._name)
            weakref.finalize(self, self._process.drop)
            self.held_by = self._process.load(self._pte, self._needs)
        return self._process

    def _signature(self, array: Array) -> Any:
        place = self._places.get(id(array))
        return place[1] if place is not None else (array.dtype.char, array.shape)

    def _new_call(self, process: _Process, method: str, inputs: Sequence[Array]) -> _Call:
        if len(self._calls) >= MOST_CALLS:
            self.hold(())
        copied = [(n, Spec.of(x)) for n, x in enumerate(inputs) if id(x) not in self._places]
        if not known([spec for _, spec in copied]):
            raise ProgramError(f"method {method} takes no arrays of these types and shapes")
        starts, size = offsets([spec for _, spec in copied])
        if size and (self._inputs is None or self._inputs[1].size < size):
            self._calls.clear()
            self._inputs = None
            process.forget()
            self._inputs = process.share(1 << (size - 1).bit_length())
        places: list[Place | None] = [None] * len(inputs)
        views = []
        for (number, spec), start in zip(copied, starts, strict=True):
            memory, room = self._inputs if self._inputs and spec.size else (0, None)
            places[number] = Place(memory, start, spec)
            dtype = np.dtype(spec.dtype)
            if room is not None:
                views.append((number, room.array(start, dtype, spec.shape)))
        for number, x in enumerate(inputs):
            if places[number] is None:
                places[number] = Place(self._places[id(x)][1], 0, Spec.of(x))
        self._numbers += 1
        return _Call(self._numbers, [p for p in places if p is not None], views, list(inputs))

    def _outputs_of(self, process: _Process, call: _Call, reply: bytes, method: str) -> list[Array]:
        if reply[:1] == GROW:
            size = NUMBER.unpack(reply[1:])[0] if len(reply) == 1 + NUMBER.size else 0
            if not 0 < size < MAX_MEMORY:
                raise process.failed(f"method {method} needs {size} bytes of outputs")
            for other in self._calls.values():
                other.outputs = None
            self._outputs = None
            _, self._outputs = process.share(1 << (size - 1).bit_length())
            reply = process.answer(method)
        if reply[:1] == SAME and call.outputs is not None:
            return call.outputs
        if reply[:1] != DONE:
            raise process.failed(f"method {method} was answered in no known form")
        try:
            specs = outputs_of(reply)
            starts, size = offsets(specs)
            if size and self._outputs is None:
                raise ValueError("no memory for outputs")
            call.outputs = [
                np.empty(spec.shape, spec.dtype)
                if self._outputs is None
                else self._outputs.array(start, np.dtype(spec.dtype), spec.shape)
                for spec, start in zip(specs, starts, strict=True)
            ]
        except (ProgramError, ValueError) as error:
            raise process.failed(f"method {method}: {error}") from error
        return call.outputs


class _Call:
    def __init__(
        self, number: int, places: list[Place], copied: list[tuple[int, Array]], inputs: list[Array]
    ) -> None:
        """Describe one call. `copied` are inputs by number, and where they are copied to."""
        self.number, self.places, self.copied = number, places, copied
        copies = {n for n, _ in copied}
        self.placed = [x for n, x in enumerate(inputs) if n not in copies]
        """Kept so that no other array gets their ids."""
        self.outputs: list[Array] | None = None


class _Process:
    """The process of one program, until it ends."""

    def __init__(self, starter: Starter, name: str) -> None:
        self._starter, self._name = starter, name
        self._line, self.pid = starter.start()
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        self._packet = bytearray(MAX_PACKET)
        self._view = memoryview(self._packet)
        """Room for answers, once for all: to make it anew takes more than most answers do."""
        self._shared = 0
        self.ended = False
        self.held_by = ""
        self.dropped: list[int] = []
        """Numbers of memory that no array of this side needs any more."""

    def load(self, pte: bytes, needs: int) -> str:
        """Have the process load the program; what it is held by. Raises ProgramError if it is refused."""
        descriptor = new_file(len(pte))
        try:
            memory = SharedMemory(descriptor, len(pte))
            memory.array(0, np.dtype(np.uint8), (len(pte),))[:] = np.frombuffer(pte, np.uint8)
            self._send(LOAD + MEMORY.pack(len(pte), needs), descriptor)
        finally:
            os.close(descriptor)
        self._wait_at_most(LOAD_SECONDS)
        try:
            reply = self.answer("")
        except ProgramError:
            self.close()
            raise
        if reply[:1] != LOADED:
            raise self.failed("loading it was answered in no known form")
        self._wait_at_most(RUN_SECONDS)
        self.held_by = _printable(reply[1:200])
        return self.held_by

    def share(self, size: int) -> tuple[int, SharedMemory]:
        """Return the number of new memory, and the memory. Raises MemoryError if there is none."""
        try:
            descriptor = new_memory(size)
        except OSError as error:
            raise MemoryError(str(error)) from error
        try:
            memory = SharedMemory(descriptor, size)
            self._shared += 1
            self._send(SHARE + MEMORY.pack(self._shared, size), descriptor)
        except OSError as error:
            raise MemoryError(str(error)) from error
        finally:
            os.close(descriptor)
        return self._shared, memory

    def forget(self) -> None:
        """Drop all calls in the process, and the memory that is not needed any more."""
        numbers = self.dropped[:]
        del self.dropped[: len(numbers)]  # more may have been dropped meanwhile
        with contextlib.suppress(ProgramError):  # told of when it is to run something
            for at in range(0, max(1, len(numbers)), MOST_FORGOTTEN):
                self._send(FORGET + b"".join(map(NUMBER.pack, numbers[at : at + MOST_FORGOTTEN])))

    def ask(self, packet: bytes, method: str) -> bytes:
        """Return the answer to a packet. Raises ProgramError if it is refused, or the process ends."""
        self._send(packet)
        return self.answer(method)

    def answer(self, method: str) -> bytes:
        """Wait for the answer to what was sent. Raises ProgramError as `ask` does."""
        try:
            size = self._line.recv_into(self._packet)
        except ConnectionResetError:
            size = 0
        except OSError as error:
            late = error.errno in (errno.EAGAIN, errno.EWOULDBLOCK)
            raise self.failed(f"{_doing(method)} took too long" if late else str(error)) from error
        if not size:
            raise self.failed(f"it ended its process {_doing(method)}")
        reply = bytes(self._view[:size])
        if reply[:1] == ERROR:
            raise ProgramError(_printable(reply[1:1001]))
        return reply

    def failed(self, why: str) -> ProgramError:
        """End the process, and return the error that tells why, with the signal that ended it."""
        code = self.close()
        if code < 0 and code != -signal.SIGKILL:
            with contextlib.suppress(ValueError):
                why += f", by {signal.Signals(-code).name}"
        return ProgramError(
            f"program {self._name[:12]} is damaged or malicious: {why}; export and push it again"
        )

    def close(self) -> int:
        """End the process; how it ended."""
        if self.ended:
            return 0
        self.ended = True
        self._line.close()
        return self._starter.end(self.pid)

    def drop(self) -> None:
        """End the process, whatever else is under way."""
        if not self.ended:
            self.ended = True
            self._line.close()
            self._starter.bury(self.pid)

    def _send(self, packet: bytes, descriptor: int = -1) -> None:
        try:
            if descriptor < 0:
                self._line.send(packet)
            else:
                socket.send_fds(self._line, [packet], [descriptor])
        except OSError as error:
            raise self.failed(f"it ended its process ({error.strerror})") from error

    def _wait_at_most(self, seconds: int) -> None:
        for way in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._line.setsockopt(socket.SOL_SOCKET, way, struct.pack("@ll", seconds, 0))


def _printable(text: bytes) -> str:
    """Return text of the process, which goes into logs, as one printable line."""
    return "".join(x if x.isprintable() else " " for x in text.decode(errors="replace"))


def _doing(method: str) -> str:
    return f"in method {method}" if method else "as it was loaded"


def _forget(places: dict[int, Any], key: int, gone: object) -> None:
    places.pop(key, None)
