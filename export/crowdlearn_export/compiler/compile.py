"""From plain tensor functions to one ExecuTorch program.

A method is a pure function of tensors. It is traced with its vector-Jacobian products inside, lowered (see
`lowering`), and exported with a dynamic batch dimension; where it pays, products and elementwise chains are
given to XNNPACK.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest

import torch
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.dialects._ops import ops as exir_ops
from torch.fx import GraphModule

from crowdlearn_export.errors import LoweringError
from crowdlearn_export.lowering import lower
from crowdlearn_export.lowering.backend import Backend, choose_backend, delegate, prepare
from crowdlearn_export.lowering.operators import check_operators
from crowdlearn_export.lowering.passes.order import free_early
from crowdlearn_export.lowering.shortcuts import code_when_called, decomposed_before, rare_collections
from crowdlearn_export.lowering.workspace import bytes_of, workspace_bytes

from .in_place import InPlacePlanning

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Method:
    """A pure function to be compiled.

    `batched` are the positions of the inputs whose dimension 0 is the batch; `example` are inputs of the
    right shapes and dtypes, with a batch of at least 2. `updates` are outputs, by position, that are written
    over the input at the position given, whose memory the caller must be able to see change, and are no
    outputs of the program.
    """

    name: str
    function: Callable[..., Tensors]
    example: Tensors
    batched: tuple[int, ...] = ()
    updates: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CompiledProgram:
    """A .pte, its memory beyond its inputs, the operators it calls, and the backend of each method.

    A loaded program has one arena for all methods, and XNNPACK one workspace: the largest needs count.
    """

    pte: bytes
    arena_bytes: int
    workspace_bytes: int
    operators: tuple[str, ...]
    backends: Mapping[str, Backend]


class _Function(torch.nn.Module):
    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, *inputs: torch.Tensor) -> Tensors:
        return self.graph_module(*inputs)


def compile_program(
    methods: Sequence[Method], *, max_batch: int, backend: Backend | None = None
) -> CompiledProgram:
    """Compile `methods` into one program for batches of 1 to `max_batch`.

    Every method gets the backend that its products suggest unless `backend` names one for all. Raises
    LoweringError for an operation that no phone can run correctly.
    """
    lowered = lower_methods(methods)
    backends = {name: backend or choose_backend(graph) for name, graph in lowered.items()}
    return compile_lowered(methods, lowered, backends, max_batch)


def lower_methods(methods: Sequence[Method]) -> dict[str, GraphModule]:
    """The graph of each method. Raises LoweringError as compiling does."""
    return {m.name: lower(m.function, m.example, m.batched) for m in methods}


@rare_collections()
@code_when_called()
@decomposed_before()
def compile_lowered(
    methods: Sequence[Method],
    lowered: Mapping[str, GraphModule],
    backends: Mapping[str, Backend],
    max_batch: int,
) -> CompiledProgram:
    """Compile methods that are lowered already, each for the backend that is named for it."""
    max_batch = max((max_batch, *(m.example[i].shape[0] for m in methods for i in m.batched)))
    exported = {m.name: _export(m, prepare(lowered[m.name], backends[m.name]), max_batch) for m in methods}
    # A dense layer stays one operator: both backends have it, and it needs no transposed copy.
    config = EdgeCompileConfig(_check_ir_validity=False, preserve_ops=[torch.ops.aten.linear.default])
    edge = to_edge(exported, compile_config=config)
    for name in edge.methods:
        _drop_copies(edge.exported_program(name))
    edge = delegate(edge, backends, max_batch)
    for name in edge.methods:
        free_early(edge.exported_program(name).graph_module, partial(bytes_of, max_batch=max_batch))
    # Inputs stay where the caller has them: a copy of every weight at every call costs more than a small
    # product.
    planning = {m.name: InPlacePlanning(m.updates) for m in methods}
    workspace = max(workspace_bytes(edge.exported_program(name), max_batch) for name in exported)
    try:
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    except RuntimeError as error:
        if "Missing out variants" not in str(error):
            raise
        raise LoweringError(f"no phone can run an operation of the model: {error}") from error
    plans = program.executorch_program.execution_plan
    operators = sorted(
        {f"{op.name}.{op.overload}" if op.overload else op.name for plan in plans for op in plan.operators}
    )
    check_operators(operators)
    arena = sum(map(max, zip_longest(*(plan.non_const_buffer_sizes for plan in plans), fillvalue=0)))
    return CompiledProgram(program.buffer, arena, workspace, tuple(operators), dict(backends))


def _drop_copies(program: torch.export.ExportedProgram) -> None:
    """Every tensor of a program is contiguous, so copies that make one so are for nothing, except where an
    input is an output.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is not exir_ops.edge.dim_order_ops._clone_dim_order.default:
            continue
        source = node.args[0]
        while source.target is exir_ops.edge.aten.view_copy.default:
            source = source.args[0]
        if source.op == "call_function":
            program.graph_signature.replace_all_uses(node.name, node.args[0].name)
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    program.graph_module.recompile()


def _export(method: Method, graph: GraphModule, max_batch: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=max_batch)
    shapes = tuple({0: batch} if i in method.batched else None for i in range(len(method.example)))
    return torch.export.export(_Function(graph), method.example, dynamic_shapes=(shapes,), strict=False)
