"""Passes of ExecuTorch that change single calls are done call by call: their own way traces the whole graph
anew, each of them.

A lowered graph makes that possible: every tensor is contiguous, and a call is replaced by one whose result
has the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from executorch.exir.dim_order_utils import get_dim_order
from executorch.exir.passes import OpReplacePass, spec_prop_pass
from executorch.exir.passes.dim_order_ops_registry import DimOrderOpsMap
from executorch.exir.passes.memory_format_ops_pass import MemoryFormatOpsPass
from executorch.exir.passes.replace_aten_with_edge_pass import aten_to_edge, should_lower_to_edge
from executorch.exir.passes.scalar_to_tensor_pass import ScalarToTensorPass
from torch._export.passes.replace_view_ops_with_view_copy_ops_pass import (
    ReplaceViewOpsWithViewCopyOpsPass,
    get_view_copy_of_view_op,
)
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from .shortcuts import replaced

aten = torch.ops.aten

CONSTANT = "_number"
"""The name of a constant, before its number."""


@contextmanager
def passes_in_place() -> Iterator[None]:
    """Have these passes change the graph that they are given, meanwhile."""
    with ExitStack() as stack:
        for kind, change in CHANGES.items():
            stack.enter_context(replaced(kind, "call", _on_calls(change)))
        stack.enter_context(replaced(spec_prop_pass, "ExportPass", _Copied))
        yield


def _copy_views(node: Node) -> None:
    """Make a copy of a view, which is contiguous."""
    target: Any = node.target
    if target is aten._unsafe_view.default:
        node.target = aten.view_copy.default
    elif isinstance(target, OpOverload) and (copy := get_view_copy_of_view_op(target._schema)):
        node.target = copy
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor) and not value.is_contiguous():
        node.meta["val"] = value.new_empty(value.shape)


def _name_scalars(node: Node) -> None:
    """Make constants of numbers that stand where the schema asks for tensors."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return
    asked = {a.name for a in schema.arguments if isinstance(a.type, torch.TensorType)}

    def constant(name: str, value: Any) -> Any:
        if name not in asked or not isinstance(value, (float, int, bool)):
            return value
        module: Any = node.graph.owning_module
        number = sum(kept.startswith(CONSTANT) for kept in module._buffers)
        module.register_buffer(f"{CONSTANT}{number}", torch.tensor(value))
        with node.graph.inserting_before(node):
            made = node.graph.get_attr(f"{CONSTANT}{number}")
        made.meta["val"] = getattr(module, f"{CONSTANT}{number}")
        return made

    named = zip(schema.arguments, node.args, strict=False)
    node.args = tuple(constant(argument.name, value) for argument, value in named)
    node.kwargs = {name: constant(name, value) for name, value in node.kwargs.items()}


def _on_the_edge(node: Node) -> None:
    """Make a call of ExecuTorch's dialect."""
    if should_lower_to_edge(node.target):
        node.target = aten_to_edge(node.target)


def _order_dimensions(node: Node) -> None:
    """Tell the order of dimensions in memory instead of a memory format."""
    target: Any = node.target
    if target not in DimOrderOpsMap:
        return
    kwargs = dict(node.kwargs)
    memory_format = kwargs.pop("memory_format", None)
    source = node.args[0].meta["val"] if isinstance(node.args[0], Node) else None
    rank = node.meta["val"].dim()
    if memory_format not in (None, torch.preserve_format):
        kwargs["dim_order"] = get_dim_order(memory_format, rank)
    elif source is not None:
        kwargs["dim_order"] = [int(d) for d in source.dim_order()]
    else:
        kwargs["dim_order"] = list(range(rank))
    node.target, node.kwargs = DimOrderOpsMap[target], kwargs


CHANGES: dict[Any, Callable[[Node], None]] = {
    ReplaceViewOpsWithViewCopyOpsPass: _copy_views,
    ScalarToTensorPass: _name_scalars,
    OpReplacePass: _on_the_edge,
    MemoryFormatOpsPass: _order_dimensions,
}


def _on_calls(change: Callable[[Node], None]) -> Any:
    def call(self: Any, graph_module: GraphModule) -> PassResult:
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function":
                change(node)
        graph_module.recompile()
        return PassResult(graph_module, True)

    return call


class _Copied:
    """A stand-in for the pass that traces all tensors of a graph anew: they are known, it copies them."""

    def __call__(self, graph_module: GraphModule) -> PassResult:
        return PassResult(copied(graph_module), True)


def copied(module: GraphModule) -> GraphModule:
    """Return a graph module with nodes of its own."""
    graph = Graph()
    graph._codegen = module.graph._codegen
    copy: Any = graph.graph_copy(module.graph, {}, return_output_node=True)
    result, output = copy
    graph.output(result).meta = dict(output.meta)
    return GraphModule(module, graph)
