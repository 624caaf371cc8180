"""A lowered graph as the program that ExecuTorch takes, without tracing it a third time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from executorch.exir.passes.debug_handle_generator_pass import DebugHandleGeneratorPass
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.infra.pass_base import PassResult
from torch.utils import _pytree as pytree
from torch.utils._sympy.value_ranges import ValueRanges

from crowdlearn_export.lowering.passes_in_place import copied
from crowdlearn_export.lowering.shortcuts import replaced

Tensors = tuple[torch.Tensor, ...]


def exported(
    lowered: GraphModule, example: Tensors, batched: Collection[int], max_batch: int
) -> ExportedProgram:
    """Return a lowered graph as an exported program for batches of 1 to `max_batch`.

    Tensors of calls that passes have added since the graph was traced are found here; the others are known.
    Only a graph that writes over tensors is traced once more, to give it values instead.
    """
    if any(_writes(node.target) for node in lowered.graph.nodes):
        batch = torch.export.Dim("batch", min=1, max=max_batch)
        shapes = tuple({0: batch} if i in batched else None for i in range(len(example)))
        return torch.export.export(_Function(lowered), example, dynamic_shapes=(shapes,), strict=False)
    module = copied(lowered)
    module.graph.eliminate_dead_code()
    given = [node for node in module.graph.nodes if node.op == "placeholder"]
    mode = next(node.meta["val"].fake_mode for node in given)
    constants = _lifted_constants(module, given[0], mode)
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if "val" not in node.meta:
            args, kwargs = map_arg((node.args, node.kwargs), lambda read: read.meta["val"])
            with mode:
                node.meta["val"] = node.target(*args, **kwargs)
        value = node.meta["val"]
        # ExecuTorch asks for it, and reads it where a value is none.
        node.meta["tensor_meta"] = [None] * len(value) if isinstance(value, (list, tuple)) else None
    signature = ExportGraphSignature(
        [
            *(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name), name) for name in constants),
            *(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in given),
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in _outputs(module)],
    )
    module.graph._codegen = torch.fx.graph.CodeGen()
    module.recompile()
    called = ModuleCallSignature(
        [], [], pytree.tree_structure((example, {})), pytree.tree_structure(tuple(_outputs(module)))
    )
    return ExportedProgram(
        module,
        module.graph,
        signature,
        {},
        {symbol: _limited(mode.shape_env, symbol, max_batch) for symbol in _batches(given)},
        [ModuleCallEntry("", called)],
        (example, {}),
        constants,
    )


def without_debug_handles() -> AbstractContextManager[None]:
    """Leave calls unnumbered for a debugger, meanwhile: the place where it was traced is not known."""
    return replaced(DebugHandleGeneratorPass, "call", lambda _, module: PassResult(module, False))


class _Function(torch.nn.Module):
    def __init__(self, graph: GraphModule) -> None:
        super().__init__()
        self.graph_module = graph

    def forward(self, *inputs: torch.Tensor) -> Tensors:
        return self.graph_module(*inputs)


def _writes(target: object) -> bool:
    return isinstance(target, OpOverload) and target._schema.is_mutable


def _lifted_constants(module: GraphModule, first: Node, mode: Any) -> dict[str, Any]:
    """Make inputs of the constants of a graph, before its first one."""
    found: dict[str, Any] = {}
    for node in list(module.graph.nodes):
        if node.op != "get_attr":
            continue
        value = getattr(module, str(node.target)).detach()
        with module.graph.inserting_before(first):
            constant = module.graph.placeholder(f"c_{node.target}")
        constant.meta["val"] = mode.from_tensor(value, static_shapes=True)
        node.replace_all_uses_with(constant)
        module.graph.erase_node(node)
        found[constant.name] = value
    return found


def _outputs(module: GraphModule) -> list[Node]:
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    return list(output.args[0])


def _batches(given: list[Node]) -> Iterator[Any]:
    """Yield the symbol of the batch, if there is one."""
    sizes = (size for node in given for size in node.meta["val"].shape)
    yield from dict.fromkeys(size.node.expr for size in sizes if isinstance(size, torch.SymInt))


def _limited(shapes: Any, symbol: Any, most: int) -> ValueRanges[Any]:
    """Tell the environment of shapes how large a symbol can be."""
    shapes.var_to_range[symbol] = ValueRanges(1, most)
    return shapes.var_to_range[symbol]
