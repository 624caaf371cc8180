"""The executor for devices without torch: ExecuTorch's own runtime behind NumPy arrays.

The library is one person's project (executorch-numpy-runtime, ExecuTorch 1.3.1 inside). It is used through
this file alone, pinned where bundles are made, and compared to 1e-5 with ExecuTorch's own bindings.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from crowdlearn_device.errors import ProgramError
from crowdlearn_device.protocol.frames import Array

from .executor import check_identifier

CORE = "executorch_numpy_runtime._core"


class NumpyRuntimeExecutor:
    """An executor that runs a .pte in ExecuTorch's runtime; arrays are handed over as they are, so that a
    program updates weights in place.
    """

    def __init__(self, pte: bytes) -> None:
        check_identifier(pte)
        try:
            core: Any = importlib.import_module(CORE)
        except ImportError as error:
            raise ProgramError(
                f"the runtime is not here ({error}); install crowdlearn-device[torch-free]"
            ) from error
        try:
            self._program = core.load_buffer(pte)
            names = self._program.method_names()
            self._inputs = {name: int(self._program.method_meta(name)["num_inputs"]) for name in names}
        except Exception as error:  # its errors have no common base with Python's
            raise ProgramError(
                f"ExecuTorch cannot load the program ({error}); export and push it again"
            ) from error

    def run(self, method: str, inputs: Sequence[Array], *, borrowed: bool = False) -> list[Array]:
        """Return outputs of `method`, copies in any case. Raises ProgramError if it is refused.

        Arrays are of the ports' dtypes and shapes [rows, ...].
        """
        wanted = self._inputs.get(method)
        if wanted is None:
            raise ProgramError(f"method {method} is not in the program; export and push it again")
        if len(inputs) != wanted:  # the library would take what the last run left
            raise ProgramError(f"method {method} takes {wanted} arrays and was given {len(inputs)}")
        # Its own Method class makes arrays without dimensions one-dimensional, which programs refuse.
        arrays = [x if x.flags.c_contiguous and x.flags.writeable else x.copy("C") for x in inputs]
        try:
            return list(self._program.run_method(method, arrays))
        except Exception as error:
            raise ProgramError(f"method {method} failed: {error}") from error

    def hold(self, arrays: Iterable[Array]) -> None:
        """Do nothing: the library looks at its inputs anew at every run.

        Arrays are of any dtype and shape [...].
        """

    def zeros(self, shape: Sequence[int], dtype: str = "float32") -> Array:
        """Return zeros of `dtype` [...]."""
        return np.zeros(shape, dtype)

    @staticmethod
    def prepare() -> None:
        """Import the library."""
        importlib.import_module(CORE)

    @staticmethod
    def warm_up() -> None:
        """Do nothing: the library starts no threads before its first program."""
