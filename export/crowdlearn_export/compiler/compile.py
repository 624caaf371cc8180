"""From plain tensor functions to one ExecuTorch program.

A method is a pure function of tensors. It is traced with its vector-Jacobian products inside, lowered (see
`lowering`), and exported with a dynamic batch dimension; where it pays, products and elementwise chains are
given to XNNPACK.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from crowdlearn_device.program.manifest import Backend

import crowdlearn_export.executorch_quietly  # noqa: F401

# isort: split
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge
from executorch.exir.dialects._ops import ops as exir_ops
from torch.fx import GraphModule

from crowdlearn_export.errors import LoweringError
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.lowering.backend import choose_backend, delegate, prepare
from crowdlearn_export.lowering.idle_passes import idle_passes_left_out
from crowdlearn_export.lowering.lower import lower
from crowdlearn_export.lowering.operators import check_operators
from crowdlearn_export.lowering.passes.order import free_early
from crowdlearn_export.lowering.passes.recompute import recompute
from crowdlearn_export.lowering.passes_in_place import passes_in_place
from crowdlearn_export.lowering.shortcuts import (
    code_when_called,
    decomposed_before,
    orders_by_numbers,
    rare_collections,
)
from crowdlearn_export.lowering.sizes import bytes_of
from crowdlearn_export.lowering.workspace import workspace_bytes

from .exported import exported, without_debug_handles
from .linker import link
from .memory_planning import InPlacePlanning, own_outputs
from .method import CompiledProgram, Method


class _Distinct(list[Any]):
    """A list that takes nothing twice.

    executorch 1.4.1 (exir/verification/verifier.py, EXIREdgeDialectVerifier) extends the configuration's list
    of preserved operators by itself for every verifier that it makes: the list doubles each time. To be
    replaced by a list once that is mended there.
    """

    def extend(self, values: Iterable[Any]) -> None:
        super().extend([value for value in values if value not in self])


def compile_program(
    methods: Sequence[Method],
    *,
    max_batch: int,
    backend: Backend | None = None,
    memory: MemoryUse = "fastest",
) -> CompiledProgram:
    """Compile `methods` into one program for batches of 1 to `max_batch`.

    Every method gets the backend that its products suggest at the largest batch, unless `backend` names one
    for all. With less `memory` than the fastest program takes, some of what gradients need is computed again.
    Raises LoweringError for an operation that no phone can run correctly.
    """
    lowered = lower_methods(methods)
    backends = {name: backend or choose_backend(graph, max_batch) for name, graph in lowered.items()}
    return compile_lowered(methods, lowered, backends, max_batch, memory)


def lower_methods(methods: Sequence[Method]) -> dict[str, GraphModule]:
    """Return the graph of each method. Raises LoweringError as compiling does."""
    return {m.name: own_outputs(lower(m.function, m.example, m.batched), m.updates) for m in methods}


@rare_collections()
@code_when_called()
@decomposed_before()
@idle_passes_left_out()
@orders_by_numbers()
@passes_in_place()
def compile_lowered(
    methods: Sequence[Method],
    lowered: Mapping[str, GraphModule],
    backends: Mapping[str, Backend],
    max_batch: int,
    memory: MemoryUse = "fastest",
) -> CompiledProgram:
    """Compile methods that are lowered already, each for the backend that is named for it."""
    compiled = {m.name: _compile(m, lowered[m.name], backends[m.name], max_batch, memory) for m in methods}
    return linked(compiled)


def linked(methods: Mapping[str, CompiledProgram]) -> CompiledProgram:
    """Return one program from programs of a method each, under these names."""
    if len(methods) == 1 and (name := next(iter(methods))) in methods[name].backends:
        return methods[name]
    each = list(methods.values())
    return CompiledProgram(
        link({name: one.pte for name, one in methods.items()}),
        tuple(map(max, zip_longest(*(one.buffers for one in each), fillvalue=0))),
        max(one.workspace_bytes for one in each),
        tuple(sorted({operator for one in each for operator in one.operators})),
        {name: backend for name, one in methods.items() for backend in one.backends.values()},
    )


def _compile(
    method: Method, lowered: GraphModule, backend: Backend, max_batch: int, memory: MemoryUse
) -> CompiledProgram:
    """Return a program of one method, which takes time and memory for that one alone."""
    name = method.name
    planned = max((max_batch, *(method.example[i].shape[0] for i in method.batched)))
    size = partial(bytes_of, batch=planned)
    prepared = recompute(prepare(lowered, backend, max_batch), size, memory)
    program = exported(prepared, method.example, method.batched, planned)
    # A dense layer stays one operator: both backends have it, and it needs no transposed copy.
    preserved = _Distinct([torch.ops.aten.linear.default])
    config = EdgeCompileConfig(_check_ir_validity=False, preserve_ops=preserved)
    with without_debug_handles():
        edge = to_edge({name: program}, compile_config=config)
    _drop_copies(edge.exported_program(name))
    edge = delegate(edge, {name: backend}, max_batch)
    free_early(edge.exported_program(name).graph_module, size)
    workspace = workspace_bytes(edge.exported_program(name), planned)
    # Inputs stay where the caller has them: a copy of every weight at every call costs more than a small
    # product.
    planning = InPlacePlanning(method.updates)
    try:
        made = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    except RuntimeError as error:
        if "Missing out variants" not in str(error):
            raise
        raise LoweringError(f"no phone can run an operation of the model: {error}") from error
    (plan,) = made.executorch_program.execution_plan
    operators = sorted({f"{op.name}.{op.overload}" if op.overload else op.name for op in plan.operators})
    check_operators(operators)
    buffers = tuple(plan.non_const_buffer_sizes)
    return CompiledProgram(made.buffer, buffers, workspace, tuple(operators), {name: backend})


def _drop_copies(program: torch.export.ExportedProgram) -> None:
    """Drop copies that make a tensor contiguous: every tensor of a program is. Those of inputs that are
    outputs, and of constants, stay.
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
