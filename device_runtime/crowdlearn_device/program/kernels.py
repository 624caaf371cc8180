"""The choice between ExecuTorch's own kernels and XNNPACK's, made on the device that runs them.

A program holds both forms of a method for which either may be the faster: on another processor other kernels
run. A device times both when it first loads the program, and writes down what it chose. Under QEMU seconds
are none of a phone's: nothing is timed there, and the size of the products decides, as it does in a program
without both forms.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from crowdlearn_device.platform.files import write_atomically
from crowdlearn_device.protocol.frames import Array

from .manifest import HELD, Backend, Manifest, Port

if TYPE_CHECKING:
    from .executor import Executor

log = logging.getLogger("crowdlearn")

VERSION = 1
"""The version of a written choice: another one is made anew."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)
ABIS = {"aarch64": "arm64-v8a", "armv7l": "armeabi-v7a"}
"""Android's names of machines, where they differ from Linux's."""
CLEARLY = 0.9
"""The part of the suggested backend's time that the other one must keep below."""
ROUNDS, SECONDS = 5, 0.002
"""Rounds in which both are timed in turn, and how long each runs in one."""


@dataclass(frozen=True)
class Timed:
    """The backend that a method runs on, and the least milliseconds of a call on each."""

    backend: Backend
    portable_ms: float
    xnnpack_ms: float


@dataclass(frozen=True)
class KernelChoice:
    """The choices of a device of this `abi` for the methods of a program of which there are two forms. If it
    is `emulated`, none was timed.
    """

    abi: str
    emulated: bool
    methods: Mapping[str, Timed] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> KernelChoice:
        """Return the choice that `text` holds. Raises ValueError if it holds none of this version."""
        try:
            x: Any = json.loads(text)
            if x["version"] != VERSION:
                raise ValueError(f"version {x['version']!r}")
            methods = {str(name): _timed(timed) for name, timed in x["methods"].items()}
            return cls(str(x["abi"]), bool(x["emulated"]), methods)
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"no choice of kernels: {error}") from error


def _timed(x: Any) -> Timed:
    if x["backend"] not in BACKENDS:
        raise ValueError(f"{str(x['backend'])[:40]!r} is no backend")
    return Timed(x["backend"], float(x["portable_ms"]), float(x["xnnpack_ms"]))


class ChoosingExecutor:
    """An executor that runs of each method the form that its device chose."""

    def __init__(self, executor: Executor, manifest: Manifest, choice: KernelChoice) -> None:
        self.inner, self.choice = executor, choice
        self._others = {
            name: manifest.backends[name].other
            for name, timed in choice.methods.items()
            if timed.backend != manifest.backends[name].backend
        }

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Return outputs of `method`, as an executor does. Arrays are of the ports' dtypes [rows, ...]."""
        return self.inner.run(self._others.get(method, method), inputs, borrowed=borrowed)

    def hold(self, arrays: Iterable[Array]) -> None:
        """Know these arrays [...], as an executor does."""
        self.inner.hold(arrays)

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...] where the program reaches them."""
        return self.inner.zeros(shape, dtype)


def choosing(executor: Executor, manifest: Manifest, written: Path) -> Executor:
    """Return an executor that runs the faster form of each method of which a program has two: as is
    `written`, or else as is timed now and written down. The executor itself if there is none.
    """
    both = {name for name, choice in manifest.backends.items() if choice.other}
    if not both:
        return executor
    choice = None
    with contextlib.suppress(OSError, ValueError):
        choice = KernelChoice.from_json(written.read_bytes())
        if not choice.emulated and set(choice.methods) != both:
            choice = None
    if choice is None:
        choice = timed_choice(executor, manifest)
        with contextlib.suppress(OSError):  # what cannot be kept serves all the same
            write_atomically(written, choice.to_json().encode())
    return ChoosingExecutor(executor, manifest, choice)


def timed_choice(executor: Executor, manifest: Manifest) -> KernelChoice:
    """Time both forms of every method that has two, at the largest batch, and choose. The suggested backend
    stays unless the other one is clearly faster. Raises ProgramError if a method cannot be run.
    """
    abi = ABIS.get(platform.machine(), platform.machine())
    if emulated():
        return KernelChoice(abi, True)
    methods = {}
    for method in manifest.methods:
        suggested = manifest.backends.get(method.name)
        if suggested is None or not suggested.other:
            continue
        arrays = [zeros_at(port, manifest.max_batch, executor) for port in method.inputs]
        (other,) = set(BACKENDS) - {suggested.backend}
        least = _least(executor, {suggested.backend: method.name, other: suggested.other}, arrays)
        chosen = other if least[other] < CLEARLY * least[suggested.backend] else suggested.backend
        methods[method.name] = Timed(chosen, *(round(1e3 * least[backend], 4) for backend in BACKENDS))
    executor.hold(())
    chosen_here = ", ".join(f"{name} {timed.backend}" for name, timed in methods.items())
    log.info("kernels of program %s, timed here: %s", manifest.program[:12], chosen_here)
    return KernelChoice(abi, False, methods)


def _least(executor: Executor, forms: Mapping[Backend, str], arrays: Sequence[Array]) -> dict[Backend, float]:
    """Return the least seconds of a call on each backend, in interleaved rounds."""
    least = dict.fromkeys(forms, float("inf"))
    for name in forms.values():
        executor.run(name, arrays, borrowed=True)  # the first call plans memory
    for _ in range(ROUNDS):
        for backend, name in forms.items():
            started = time.perf_counter()
            ends = started + SECONDS
            while started < ends:
                executor.run(name, arrays, borrowed=True)
                stopped = time.perf_counter()
                least[backend] = min(least[backend], stopped - started)
                started = stopped
    return least


def zeros_at(port: Port, batch: int, executor: Executor) -> Array:
    """Return zeros for a port [rows, ...]; state lies where the program reaches it, as in training."""
    shape = [batch if size == "B" else int(size) for size in port.shape]
    if port.role in HELD:
        return executor.zeros(shape, port.dtype)
    return np.zeros(shape, np.dtype(port.dtype))


def emulated() -> bool:
    """Return whether QEMU runs this process on another processor: it hides itself from /proc/self alone."""
    try:
        return os.path.basename(os.readlink("/proc/thread-self/exe")).startswith("qemu-")
    except OSError:
        return False
