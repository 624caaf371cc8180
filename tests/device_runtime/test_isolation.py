"""A program that crashes, hangs, lies or is damaged costs its own process: the device goes on."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from crowdlearn_device.errors import ProgramError
from crowdlearn_device.platform.seccomp import only_compute
from crowdlearn_device.platform.shared_memory import SharedMemory, new_memory
from crowdlearn_device.program import executor as choosing
from crowdlearn_device.program.isolation import confined, isolated
from crowdlearn_device.program.isolation import warden as forking
from crowdlearn_device.program.isolation.messages import GROW, LOADED, NUMBER, Spec, outputs_message
from crowdlearn_device.program.isolation.warden import Warden

PTE = b"\x1c\0\0\0ET12" + bytes(64)
BYTES = np.frombuffer(bytes(range(8)), np.uint8)


class Does:
    """Stands in for an executor in the child: its methods do what a program could do."""

    def __init__(self, pte: bytes) -> None:
        if pte[-1]:
            os.abort()

    @staticmethod
    def prepare() -> None: ...

    @staticmethod
    def warm_up() -> None: ...

    def hold(self, arrays: object) -> None: ...

    def run(self, method: str, inputs: list[np.ndarray], *, borrowed: bool = False) -> list[np.ndarray]:
        return METHODS[method](*inputs)


def crash(*_: object) -> list[np.ndarray]:
    ctypes.string_at(0)
    return []


def eat(*_: object) -> list[np.ndarray]:
    return [np.ones(1 << 40, np.uint8)]


def escape(*_: object) -> list[np.ndarray]:
    """Whether each way out is closed."""

    def closed(way: Callable[[], object]) -> bool:
        try:
            way()
        except OSError:
            return True
        return False

    ways = (
        lambda: os.open("/etc/passwd", os.O_RDONLY),
        lambda: os.open(Path.home() / "anything", os.O_CREAT),
        lambda: os.listdir("/root"),
        lambda: os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY),
        lambda: socket.socket(),
        lambda: socket.socket(socket.AF_UNIX),
        os.fork,
        lambda: os.kill(os.getppid(), 0),
        lambda: os.execv("/bin/true", ["true"]),
    )
    files = [name for name in os.listdir("/proc/self/fd") if int(name) > 3] if os.path.exists("/proc") else []
    return [np.array([closed(way) for way in ways]), np.array(len(files))]


def hang(*_: object) -> list[np.ndarray]:
    while True:
        time.sleep(1)


METHODS: dict[str, Callable[..., list[np.ndarray]]] = {
    "double": lambda x: [x * 2],
    "many": lambda x: [np.full(1 << 20, 7, np.float32)],
    "add": lambda x: [np.add(x, 1, out=x)],
    "crash": crash,
    "abort": lambda *_: os.abort(),
    "eat": eat,
    "hang": hang,
    "escape": escape,
    "exit": lambda *_: os._exit(3),
}


@pytest.fixture
def warden(monkeypatch: pytest.MonkeyPatch) -> Iterator[Warden]:
    monkeypatch.setattr(choosing, "chosen", lambda: Does)
    monkeypatch.setattr(confined, "chosen", lambda: Does)
    monkeypatch.setattr(forking, "chosen", lambda: Does)
    warden = Warden()
    yield warden
    warden.close()


@pytest.mark.parametrize(("method", "how"), [("crash", "SIGSEGV"), ("abort", "SIGABRT"), ("exit", "")])
def test_a_crash_is_told_by_name_and_the_next_run_has_another_process(
    warden: Warden, method: str, how: str
) -> None:
    executor = warden.load(PTE)
    weights = executor.zeros((4,))
    weights[...] = 3
    with pytest.raises(ProgramError, match=f"program {executor._name[:12]} .*in method {method}.*{how}"):
        executor.run(method, [weights])
    np.testing.assert_array_equal(executor.run("double", [weights])[0], [6, 6, 6, 6])


def test_a_program_that_crashes_as_it_is_loaded_is_told(warden: Warden) -> None:
    with pytest.raises(ProgramError, match="as it was loaded"):
        warden.load(PTE[:-1] + b"\1")
    warden.load(PTE)


class CollectedBetween:
    """The line to a warden, where garbage is collected between each request and its answer."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line

    def __getattr__(self, name: str) -> object:
        return getattr(self._line, name)

    def recv(self, size: int) -> bytes:
        gc.collect()
        return self._line.recv(size)


def test_a_program_that_is_collected_while_another_starts_is_not_taken_for_it(warden: Warden) -> None:
    """The collector ended it by a request of its own, and each took the other's answer."""
    warden._line = CollectedBetween(warden._line)  # type: ignore[assignment]
    for _ in range(2):
        old = warden.load(PTE)
        gone = old.pid
        old.itself = old  # type: ignore[attr-defined]  # only the collector finds it
        del old
        new = warden.load(PTE)
        assert new.pid not in (0, gone)
        os.kill(new.pid, 0)
        assert new.run("double", [BYTES])[0].tolist() == (BYTES * 2).tolist()
        with pytest.raises(ProgramError, match="SIGSEGV"):
            new.run("crash", [BYTES])
        with pytest.raises(ProcessLookupError):
            os.kill(gone, 0)


def test_a_program_that_does_not_come_back_is_ended(warden: Warden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "RUN_SECONDS", 1)
    executor = warden.load(PTE)
    with pytest.raises(ProgramError, match="took too long"):
        executor.run("hang", [])
    assert executor.run("double", [BYTES])[0][1] == 2


def test_memory_is_limited_and_a_program_that_wants_more_is_told(warden: Warden) -> None:
    executor = warden.load(PTE, 1 << 20)
    with pytest.raises(ProgramError):
        executor.run("eat", [])
    assert executor.run("double", [BYTES])[0][1] == 2
    assert "MB of memory" in executor.held_by


def test_what_runs_a_program_reaches_no_file_network_or_process(warden: Warden) -> None:
    executor = warden.load(PTE)
    if "seccomp" not in executor.held_by:
        pytest.skip(f"this kernel holds programs by {executor.held_by} alone")
    closed, _ = executor.run("escape", [])
    assert closed.all(), closed


def test_arrays_grow_and_come_from_anywhere(warden: Warden) -> None:
    executor = warden.load(PTE)
    for size in (1, 100_000, 3):
        x = np.arange(size, dtype=np.float64)
        np.testing.assert_array_equal(executor.run("double", [x])[0], 2 * x)
    assert executor.run("many", [BYTES], borrowed=True)[0].sum() == 7 << 20
    own = executor.zeros((2, 3))
    for number in range(1, 4):
        executor.run("add", [own], borrowed=True)
        np.testing.assert_array_equal(own, np.full((2, 3), number))
    executor.hold(())
    executor.run("add", [own])
    np.testing.assert_array_equal(own, np.full((2, 3), 4))
    assert executor.run("double", [np.zeros((0, 3), np.float32)])[0].shape == (0, 3)


def test_memory_that_is_dropped_goes_in_both_processes(warden: Warden) -> None:
    executor = warden.load(PTE)
    process = executor._process
    assert process is not None
    executor.run("double", [BYTES])

    def maps(pid: int) -> int:
        return Path(f"/proc/{pid}/maps").read_text().count("memfd:crowdlearn")

    before = maps(process.pid), maps(os.getpid())
    arrays = [executor.zeros((100,)) for _ in range(20)]
    executor.run("add", [arrays[0]])
    assert maps(process.pid) == before[0] + 20
    del arrays
    executor.hold(())
    executor.run("double", [BYTES])
    assert maps(process.pid) <= before[0] + 1
    assert maps(os.getpid()) <= before[1] + 1


def test_neither_side_changes_the_size_of_memory_they_share() -> None:
    descriptor = new_memory(4096)
    memory = SharedMemory(descriptor, 4096)
    for size in (0, 1 << 20):
        with pytest.raises(OSError, match="not permitted"):
            os.ftruncate(descriptor, size)
    os.close(descriptor)
    memory.array(0, np.dtype(np.uint8), (4096,))[:] = 1


class Liar:
    """A process that answers what it likes."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = answers

    def start(self) -> tuple[socket.socket, int]:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for answer in self._answers:
            far.send(answer)
        self._far = far
        return near, 0

    def end(self, pid: int) -> int:
        self._far.close()
        return 0

    def bury(self, pid: int) -> None:
        self._far.close()


DONE = outputs_message([Spec("float32", (4,))])


@pytest.mark.parametrize(
    "answer",
    [
        b"?",
        b"=",
        b"d",
        b"d[[[",
        DONE,
        b'd[["float32",[-1]]]',
        b'd[["float32",[1099511627775]]]',
        b'd[["float32",[99999999,99999999]]]',
        b'd[["O",[4]]]',
        b'd[["float32",[true]]]',
        b'd[["float32",{"a":4}]]',
        b"d" + b"[" * 3000,
        GROW + NUMBER.pack(1 << 63),
        GROW + NUMBER.pack(0),
        GROW + b"x",
        GROW + NUMBER.pack(64) + b"",
    ],
    ids=lambda answer: repr(answer[:12]),
)
def test_a_process_that_lies_is_refused(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "RUN_SECONDS", 1)
    executor = isolated.IsolatedExecutor(PTE, Liar(LOADED, answer))
    with pytest.raises(ProgramError):
        executor.run("double", [BYTES])


def test_random_answers_are_refused_or_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "RUN_SECONDS", 1)
    rng = random.Random(0)
    for _ in range(200):
        answer = bytearray(DONE)
        for _ in range(rng.randint(1, 4)):
            answer[rng.randrange(len(answer))] = rng.randrange(256)
        executor = isolated.IsolatedExecutor(PTE, Liar(LOADED, GROW + NUMBER.pack(256), bytes(answer)))
        try:
            executor.run("double", [BYTES])
        except ProgramError:
            continue


def test_the_kernels_filter_is_a_program_that_it_takes() -> None:
    pid = os.fork()
    if pid == 0:
        held = only_compute(opens=False)
        os._exit(0 if held == (os.uname().machine in ("x86_64", "aarch64")) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert struct.calcsize("@ll") == 2 * ctypes.sizeof(ctypes.c_long)
