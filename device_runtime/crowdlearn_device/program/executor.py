"""Executors run the methods of a slice program on NumPy arrays."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import io
import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.protocol.frames import Array

from .kernels import choosing
from .manifest import Manifest
from .manifest_reader import read_manifest
from .verification import verify_for

BINDING = "executorch.extension.pybindings._portable_lib"
KERNELS = ".kernels"
"""The end of the name of a file with what a device chose for a program."""
PTE_IDENTIFIER = b"ET12"
"""Bytes 4 to 8 of every program of the format that executorch 1.4 writes and reads."""


class Executor(Protocol):
    """The runner of a program's methods; inputs and outputs are in the order of the manifest's ports."""

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Return outputs of `method`; `borrowed` ones are valid only until the next run. What `train_step`
        updates must be contiguous and writable. Arrays are of the ports' dtypes and shapes [rows, ...].
        """
        ...

    def hold(self, arrays: Iterable[Array]) -> None:
        """Know these arrays, in place of those held before: they come back at every run, contents changed.

        Arrays are of any dtype and shape [...].
        """
        ...

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...] where the program reaches them without a copy."""
        ...


class Programs(Protocol):
    """The programs of a device. Every method raises ProgramError if one is missing or damaged."""

    def manifest(self, sha256: str) -> Manifest: ...

    def executor(self, manifest: Manifest) -> Executor: ...

    def files(self, sha256: str) -> dict[str, bytes]: ...


class ExecuTorchExecutor:
    """An executor that runs a .pte on ExecuTorch's Python runtime (Linux). Importing torch waits until the
    first program is loaded.
    """

    def __init__(self, pte: bytes) -> None:
        check_identifier(pte)
        try:
            self._torch: Any = importlib.import_module("torch")
            runtime = _runtime()
        except ImportError as error:
            raise ProgramError(
                f"ExecuTorch's runtime is not here ({error}); install crowdlearn-device[executorch]"
            ) from error
        self._pte = pte  # a program loaded from a buffer does not keep the bytes alive
        try:
            self._program = runtime._load_program_from_buffer(
                pte, program_verification=runtime.Verification.InternalConsistency
            )
        except RuntimeError as error:
            raise ProgramError(
                f"ExecuTorch cannot load the program ({error}); export and push it again"
            ) from error
        self._methods: dict[str, _Method] = {}
        self._held: dict[int, tuple[Array, Any]] = {}

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Return outputs of `method`; `borrowed` ones lie in its arena. Raises ProgramError if it is refused.

        Arrays are of the ports' dtypes and shapes [rows, ...].
        """
        try:
            loaded = self._methods.get(method)
            if loaded is None:
                loaded = self._methods[method] = _Method(self._program.load_method(method))
            outputs = loaded.run(inputs, self._held, self._view)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ProgramError(f"method {method} failed: {error}") from error
        return outputs if borrowed else [output.copy() for output in outputs]

    def hold(self, arrays: Iterable[Array]) -> None:
        """Know these arrays, in place of those held before; a run makes no view of them then, and a run with
        the same ones as the last is not told of them again. Arrays are of any dtype and shape [...].
        """
        for loaded in self._methods.values():
            loaded.forget()
        self._held = {}  # an array's id is its own as long as it is held
        self._held = {id(x): (x, self._view(x)) for x in arrays if _writable(x) is x}

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...]."""
        return np.zeros(shape, dtype)

    @staticmethod
    def prepare() -> None:
        """Import the libraries."""
        importlib.import_module("torch")
        importlib.import_module(BINDING)

    @staticmethod
    def warm_up() -> None:
        """Start the threads that they compute with."""
        _runtime()

    def _view(self, array: Array) -> Any:
        return self._torch.from_numpy(_writable(array))


class _Method:
    """A loaded method, which knows its last inputs where all of them were held. To give inputs and to ask for
    outputs takes a tenth of a small model's step.
    """

    def __init__(self, loaded: Any) -> None:
        self._loaded = loaded
        self.forget()

    def forget(self) -> None:
        self._given: list[Array] = []
        self._outputs: list[Array] = []

    def run(
        self, inputs: Sequence[Array], held: Mapping[int, tuple[Array, Any]], view: Callable[[Array], Any]
    ) -> list[Array]:
        """Return outputs in the arena. Arrays are of the ports' dtypes and shapes [rows, ...]."""
        same = len(inputs) == len(self._given) and all(map(operator.is_, inputs, self._given))
        if self._outputs and same:
            self._loaded.execute()
            return list(self._outputs)
        self.forget()
        known = [held.get(id(x)) for x in inputs]
        views = [k[1] if k else view(x) for k, x in zip(known, inputs, strict=True)]
        outputs = [x.numpy() for x in self._loaded.call(views, clone_outputs=False)]
        if all(known):
            self._given, self._outputs = list(inputs), outputs
        return list(outputs)


EXECUTORS = {
    "android": ("java", "crowdlearn_device.program.android:AndroidExecutor"),
    "executorch": ("torch", "crowdlearn_device.program.executor:ExecuTorchExecutor"),
    "numpy": ("executorch_numpy_runtime", "crowdlearn_device.program.numpy_runtime:NumpyRuntimeExecutor"),
}
"""The executors by name, best first: the module that each needs, and MODULE:CLASS."""


Load = Callable[[bytes, int], Executor]
"""Loads a program (.pte) that says how many bytes it needs to run; 0 where nothing says so."""


def load_program(pte: bytes, needs: int = 0) -> Executor:
    """Return the program in the first executor whose library is here, in this process, whatever it `needs`.
    Raises ProgramError if there is none, or it refuses the program.
    """
    executor: Executor = chosen()(pte)
    return executor


def chosen() -> Any:
    """Return the class of the first executor whose library is here. Raises ProgramError if there is none."""
    for needs, place in EXECUTORS.values():
        if importlib.util.find_spec(needs) is not None:
            module, _, name = place.partition(":")
            return getattr(importlib.import_module(module), name)
    needed = " nor ".join(needs for needs, _ in EXECUTORS.values())
    raise ProgramError(f"there is neither {needed} to run programs; install crowdlearn-device[executorch]")


def check_identifier(pte: bytes) -> None:
    """Raise ProgramError for bytes that are no program: ExecuTorch ends the process at some of them."""
    if pte[4:8] != PTE_IDENTIFIER:
        raise ProgramError(f"{len(pte)} bytes that are no ExecuTorch program; export and push it again")


@functools.cache
def _runtime() -> Any:
    # Making its threads, it complains that this computer is no phone, on Python's stderr or the system's.
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        # The binding itself: executorch.runtime would import the exporter too, a third of the memory.
        runtime = importlib.import_module(BINDING)
        with contextlib.redirect_stderr(io.StringIO()):
            runtime._threadpool_get_thread_count()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
    return runtime


def _writable(array: Array) -> Array:
    # torch warns about read-only memory (what np.frombuffer gives).
    if not array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    return array if array.flags.writeable else array.copy()


class ProgramStore:
    """Programs on the device's disk: `<sha256>.json` is the manifest, `<sha256>.pte` the program it names."""

    def __init__(self, folder: Path, load: Load = load_program) -> None:
        self._folder, self._load = folder, load
        self._verified: set[tuple[str, str]] = set()
        """Manifests and programs, by hash, that fit each other: nothing else can have these hashes."""

    def manifest(self, sha256: str) -> Manifest:
        """Return the manifest of that hash. Raises ProgramError if it is absent or its bytes are not what the
        hash says.
        """
        return read_manifest(self._read(sha256, ".json"))

    def executor(self, manifest: Manifest) -> Executor:
        """Return the program of a manifest, loaded; of methods in two forms it runs the one that is faster
        here. Raises ProgramError if it is absent, damaged or refused.
        """
        pte = self._read(manifest.program, ".pte")
        if (fits := (manifest.sha256, manifest.program)) not in self._verified:
            verify_for(manifest, pte)
            self._verified.add(fits)
        loaded = self._load(pte, manifest.arena_bytes + manifest.workspace_bytes + len(pte))
        return choosing(loaded, manifest, self._path(manifest.sha256, KERNELS))

    def files(self, sha256: str) -> dict[str, bytes]:
        """Return the manifest of that hash and the program that it names, by file name."""
        program = self.manifest(sha256).program
        return {f"{sha256}.json": self._read(sha256, ".json"), f"{program}.pte": self._read(program, ".pte")}

    def has(self, sha256: str, suffix: str) -> bool:
        """Return whether the file is here. Raises ProgramError if `sha256` is no hash."""
        return self._path(sha256, suffix).exists()

    def _path(self, sha256: str, suffix: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise ProgramError(f"{sha256[:80]!r} is not the hash of a program")
        return self._folder / (sha256 + suffix)

    def _read(self, sha256: str, suffix: str) -> bytes:
        path = self._path(sha256, suffix)
        try:
            data = path.read_bytes()
            with contextlib.suppress(OSError):
                os.utime(path)  # what is used stays (state/pruning.py)
        except OSError as error:
            raise ProgramError(
                f"program {path.name} is not on this device ({error.strerror}); push it again"
            ) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ProgramError(
                f"program {path.name} is damaged: its hash differs from its name; push it again"
            )
        return data
