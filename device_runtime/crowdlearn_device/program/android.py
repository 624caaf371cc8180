"""The executor inside an Android app: ExecuTorch through Java, which Chaquopy lets Python call.

Programs work on NumPy's own memory, which Java sees as direct buffers: weights are neither copied nor sent
across. Outputs are copied once, out of the library into new arrays.
"""

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
    """An executor that runs a .pte by the Java class ProgramRunner, which is given the addresses of
    arrays.
    """

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
        """Return outputs of `method`, copies of [rows, ...] in any case. Raises ProgramError if it is
        refused.
        """
        if method not in self._methods:
            raise ProgramError(f"method {method} is not in the program; export and push it again")
        arrays = [x if x.flags.c_contiguous and x.flags.writeable else x.copy("C") for x in inputs]
        try:
            numbers = [self._held[id(x)][1] if id(x) in self._held else self._known(x) for x in arrays]
            count = self._runner.run(method, self._java.jarray(self._java.jint)(numbers))
            return [self._output(number) for number in range(count)]
        except Exception as error:  # Java's errors have no base in common with Python's
            raise ProgramError(f"method {method} failed: {error}") from error
        finally:
            self._runner.keep(len(self._held))

    def hold(self, arrays: Iterable[Array]) -> None:
        """Know these arrays [...] for good, in place of those before. What is not contiguous or may not be
        written is copied at every run.
        """
        self._held = {}
        self._runner.keep(0)
        usable = [x for x in arrays if x.flags.c_contiguous and x.flags.writeable]
        self._held = {id(array): (array, self._known(array)) for array in usable}

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...]."""
        return np.zeros(shape, dtype)

    @staticmethod
    def prepare() -> None:
        """Do nothing: the app has loaded its libraries."""

    @staticmethod
    def warm_up() -> None:
        """Do nothing."""

    def _known(self, array: Array) -> int:
        shape = self._java.jarray(self._java.jlong)(list(array.shape))
        return int(self._runner.know(array.dtype.name, shape, array.ctypes.data, array.nbytes))

    def _output(self, number: int) -> Array:
        dtype = np.dtype(_DTYPES[str(self._runner.dtype(number))])
        found: Array = np.empty([int(size) for size in self._runner.shape(number)], dtype)
        self._runner.copy(number, found.ctypes.data, found.nbytes)
        return found
