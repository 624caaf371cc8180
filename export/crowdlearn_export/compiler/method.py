"""A function to be compiled, and the program that it becomes. What compiles it takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from crowdlearn_device.program.manifest import Backend

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Method:
    """A pure function to be compiled.

    `batched` are the positions of the inputs whose dimension 0 is the batch; `example` are inputs of the
    right shapes and dtypes, with a batch of at least 2. `updates` are outputs, by position, that are written
    over the input at the position given, and are no outputs of the program. The caller must be able to see
    that input's memory change.
    """

    name: str
    function: Callable[..., Tensors]
    example: Tensors
    batched: tuple[int, ...] = ()
    updates: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CompiledProgram:
    """A .pte, its memory beyond its inputs, the operators it calls, and the backend of each method.

    A loaded program has one arena for all methods, of the largest `buffers` [bytes], and XNNPACK one
    workspace: the largest needs count.
    """

    pte: bytes
    buffers: tuple[int, ...]
    workspace_bytes: int
    operators: tuple[str, ...]
    backends: Mapping[str, Backend]

    @property
    def arena_bytes(self) -> int:
        return sum(self.buffers)
