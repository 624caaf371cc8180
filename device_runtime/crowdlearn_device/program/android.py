"""The executor inside an Android app: ExecuTorch through Java, which Chaquopy lets Python call."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.protocol.frames import Array

from .executor import check_identifier

RUNNER = "org.crowdlearn.device.ProgramRunner"
_DTYPES = {"float": np.float32, "double": np.float64, "int64": np.int64, "int32": np.int32}


class AndroidExecutor:
    """Runs a .pte by the Java class ProgramRunner. Arrays cross as bytes; those held keep a buffer there."""

    def __init__(self, pte: bytes) -> None:
        check_identifier(pte)
        try:
            self._java: Any = importlib.import_module("java")
            runner = self._java.jclass(RUNNER)
        except Exception as error:
            raise ProgramError(f"{RUNNER} is not here ({error}); this executor runs in the app") from error
        self._file = tempfile.NamedTemporaryFile(suffix=".pte")  # noqa: SIM115 - Java loads from files alone
        self._file.write(pte)
        self._file.flush()
        try:
            self._runner = runner(self._file.name)
            self._methods = frozenset(str(name) for name in self._runner.methods())
        except Exception as error:
            raise ProgramError(
                f"ExecuTorch cannot load the program ({error}); export and push it again"
            ) from error
        self._held: dict[int, tuple[Array, int]] = {}

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Outputs of `method`, copies of [rows, ...] in any case. Raises ProgramError if it is refused."""
        if method not in self._methods:
            raise ProgramError(f"method {method} is not in the program; export and push it again")
        try:
            numbers = [self._given(array) for array in inputs]
            count = self._runner.run(method, self._java.jarray(self._java.jint)(numbers))
            outputs = [self._output(number) for number in range(count)]
            for array, number in zip(inputs, numbers, strict=True):
                if array.flags.c_contiguous and array.flags.writeable:
                    array[...] = _array(self._runner.read(number), array.dtype, array.shape)
        except Exception as error:  # Java's errors have no base in common with Python's
            raise ProgramError(f"method {method} failed: {error}") from error
        finally:
            self._runner.keep(len(self._held))
        return outputs

    def hold(self, arrays: Iterable[Array]) -> None:
        """Give these arrays [...] a buffer in Java, in place of those that had one before."""
        self._held = {}
        self._runner.keep(0)
        self._held = {id(array): (array, self._new(array)) for array in arrays}

    def _given(self, array: Array) -> int:
        known = self._held.get(id(array))
        if known is None:
            return self._new(array)
        self._runner.write(known[1], self._bytes(array))
        return known[1]

    def _new(self, array: Array) -> int:
        shape = self._java.jarray(self._java.jlong)(list(array.shape))
        return int(self._runner.hold(array.dtype.name, shape, self._bytes(array)))

    def _bytes(self, array: Array) -> Any:
        return self._java.jarray(self._java.jbyte)(array.tobytes())

    def _output(self, number: int) -> Array:
        dtype = np.dtype(_DTYPES[str(self._runner.dtype(number))])
        shape = tuple(int(size) for size in self._runner.shape(number))
        return _array(self._runner.content(number), dtype, shape).copy()


def _array(content: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    found: Array = np.frombuffer(bytes(content), dtype).reshape(shape)
    return found
