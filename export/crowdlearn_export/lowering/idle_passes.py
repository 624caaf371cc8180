"""Passes of ExecuTorch that find nothing in a graph are not run: each of them traces the whole graph anew.

`PASSES` has the passes with a function each, which returns whether the pass would change the graph.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from executorch.exir.passes.legalize_portable_dim_order_pass import LegalizePortableDimOrderPass
from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
from executorch.exir.passes.remove_mixed_type_operators import RemoveMixedTypeOperators
from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import (
    ReplaceBrokenOpsWithFunctionalOpsPass,
)
from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult

from .shortcuts import replaced

aten = torch.ops.aten

PROMOTED = (
    aten.add.Tensor,
    aten.mul.Tensor,
    aten.sub.Tensor,
    aten.div.Tensor,
    aten.div.Tensor_mode,
    aten.minimum.default,
)
"""Calls whose operands the pass of mixed dtypes brings to one."""


def _mixed(node: Node) -> bool:
    """Return whether a call has operands of several dtypes, numbers among them, or is of another dtype."""
    if node.target not in PROMOTED:
        return False
    values = [arg.meta.get("val") if isinstance(arg, Node) else None for arg in node.args]
    return len({getattr(value, "dtype", None) for value in (*values, node.meta.get("val"))}) > 1


def _symbols_for_tensors(node: Node) -> bool:
    """Return whether a call gets a size where its schema asks for a tensor."""
    schema = getattr(node.target, "_schema", None)
    given = {} if schema is None else dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    given |= node.kwargs
    return schema is not None and any(
        isinstance(arg.type, torch.TensorType)
        and isinstance(value := given.get(arg.name), Node)
        and not isinstance(value.meta.get("val"), torch.Tensor)
        for arg in schema.arguments
    )


def _other_layout(node: Node) -> bool:
    """Return whether a call may get a tensor whose dimensions do not lie in their order."""
    values = [n.meta.get("val") for n in node.all_input_nodes]
    return any(
        isinstance(value, torch.Tensor)
        and not value.is_contiguous()
        and value.dim_order() != tuple(range(value.dim()))
        for value in values
    )


PASSES: dict[Any, Callable[[Node], bool]] = {
    LegalizePortableDimOrderPass: _other_layout,
    NormalizeTransposePass: lambda node: node.target is torch.ops.aten.t.default,
    RemoveMixedTypeOperators: _mixed,
    ReplaceBrokenOpsWithFunctionalOpsPass: lambda node: getattr(node.target, "is_view", False),
    SymToTensorPass: _symbols_for_tensors,
}


@contextmanager
def idle_passes_left_out() -> Iterator[None]:
    """Have these passes return a graph in which they find nothing as it is, meanwhile."""
    with ExitStack() as stack:
        for kind, finds in PASSES.items():
            stack.enter_context(replaced(kind, "call", _unless_idle(kind.call, finds)))
        yield


def _unless_idle(call: Callable[[Any, GraphModule], PassResult], finds: Callable[[Node], bool]) -> Any:
    @functools.wraps(call)
    def instead(self: Any, graph_module: GraphModule) -> PassResult:
        calls = [
            node
            for module in graph_module.modules()
            if isinstance(module, GraphModule)
            for node in module.graph.nodes
            if node.op == "call_function"
        ]
        return call(self, graph_module) if any(map(finds, calls)) else PassResult(graph_module, False)

    return instead
