"""Methods that are compiled once: kept on disk by what they compute, of whichever piece or network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import executorch.version
import torch
from crowdlearn_device.program.manifest import Backend

from crowdlearn_export.compiler.method import CompiledProgram
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.stages.stage import Stage

REVISION = 21
"""Part of every key: raise it when the same model must give another program."""

METHOD = "method"
"""The name of the only method of such a program."""


@dataclass(frozen=True)
class CompiledMethod:
    """A program of one method, and the multiplications in its matrix products at the largest batch."""

    program: CompiledProgram
    multiplications: int

    @property
    def backend(self) -> Backend:
        return self.program.backends[METHOD]


@dataclass(frozen=True)
class Methods:
    """Compiled methods for batches up to `max_batch`, kept in a folder that other processes may share."""

    folder: Path
    max_batch: int
    memory: MemoryUse = "fastest"

    def compiled(self, stage: Stage, backend: Backend | None = None) -> CompiledMethod:
        """Return the method of `stage`, for the backend that its size suggests unless one is named.

        Raises LoweringError for an operation that no phone can run correctly.
        """
        found = self.kept(stage, backend)
        return found or self._keep(self._path(stage, backend), self._compile(stage, backend))

    def kept(self, stage: Stage, backend: Backend | None = None) -> CompiledMethod | None:
        """Return the method of `stage` if it was compiled before and its file is whole."""
        try:
            head, _, pte = self._path(stage, backend).read_bytes().partition(b"\n")
            content: Mapping[str, Any] = json.loads(head)
            if content["sha256"] != hashlib.sha256(pte).hexdigest():
                return None
            program = CompiledProgram(
                pte,
                tuple(content["buffers"]),
                content["workspace_bytes"],
                tuple(content["operators"]),
                content["backends"],
            )
            return CompiledMethod(program, content["multiplications"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _compile(self, stage: Stage, backend: Backend | None) -> CompiledMethod:
        from crowdlearn_export.compiler.compile import compile_lowered, lower_methods  # takes seconds
        from crowdlearn_export.lowering.backend import choose_backend, multiplications

        method = replace(stage.method, name=METHOD)
        lowered = lower_methods([method])
        graph = lowered[METHOD]
        chosen = {METHOD: backend or choose_backend(graph, self.max_batch)}
        return CompiledMethod(
            compile_lowered([method], lowered, chosen, self.max_batch, self.memory),
            multiplications(graph, self.max_batch),
        )

    def _keep(self, path: Path, compiled: CompiledMethod) -> CompiledMethod:
        described = asdict(compiled.program) | {"multiplications": compiled.multiplications}
        pte = described.pop("pte")
        head = json.dumps({**described, "sha256": hashlib.sha256(pte).hexdigest()})
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(head.encode() + b"\n" + pte)
        os.replace(partial, path)
        return compiled

    def _path(self, stage: Stage, backend: Backend | None) -> Path:
        key = [
            REVISION,
            torch.__version__,
            executorch.version.__version__,
            self.max_batch,
            self.memory,
            backend,
            stage.kind,
        ]
        return self.folder / hashlib.sha256(json.dumps(key).encode()).hexdigest()
