"""From plain tensor functions to one ExecuTorch program.

A method is a pure function of tensors. It is traced with `make_fx` (symbolic shapes, so that `torch.func.vjp`
inside it is fine), exported with a dynamic batch dimension, and lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from torch.fx.experimental.proxy_tensor import make_fx

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Method:
    """A pure function to be compiled.

    `batched` are the positions of the inputs whose dimension 0 is the batch; `example` are inputs of the
    right shapes and dtypes, with a batch of at least 2.
    """

    name: str
    function: Callable[..., Tensors]
    example: Tensors
    batched: tuple[int, ...] = ()


@dataclass(frozen=True)
class CompiledProgram:
    """A .pte, its size in memory beyond its inputs, and the operators it calls."""

    pte: bytes
    arena_bytes: int
    operators: tuple[str, ...]


class _Function(torch.nn.Module):
    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, *inputs: torch.Tensor) -> Tensors:
        return self.graph_module(*inputs)


def trace(method: Method, max_batch: int) -> torch.export.ExportedProgram:
    """The method as an exported program whose batch runs from 1 to `max_batch`."""
    graph = make_fx(method.function, tracing_mode="symbolic")(*method.example)
    batch = torch.export.Dim("batch", min=1, max=max_batch)
    shapes = tuple({0: batch} if i in method.batched else None for i in range(len(method.example)))
    return torch.export.export(_Function(graph), method.example, dynamic_shapes=(shapes,), strict=False)


def compile_program(methods: Sequence[Method], *, max_batch: int) -> CompiledProgram:
    """Compile `methods` into one program."""
    exported = {method.name: trace(method, max_batch) for method in methods}
    edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False))
    program = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
    plans = program.executorch_program.execution_plan
    operators = sorted(
        {f"{op.name}.{op.overload}" if op.overload else op.name for plan in plans for op in plan.operators}
    )
    arena = sum(size for plan in plans for size in plan.non_const_buffer_sizes)
    return CompiledProgram(program.buffer, arena, tuple(operators))
