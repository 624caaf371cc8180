"""Small passes over the traced graph: equal constants, equal expressions, products with a transpose."""

from __future__ import annotations

import torch
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx import GraphModule, Node

aten = torch.ops.aten


def share_constants(module: GraphModule) -> GraphModule:
    """Index tables with equal contents become one node: expressions are equal only if their operands are."""
    first: dict[tuple[object, ...], Node] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            value = getattr(module, node.target)
            key = (value.dtype, tuple(value.shape), value.detach().numpy().tobytes())
            same = first.setdefault(key, node)
            if same is not node:
                node.replace_all_uses_with(same)
                module.graph.erase_node(node)
    return module


def share_expressions(module: GraphModule) -> GraphModule:
    """Equal calls become one: the columns of the forward pass are those of the kernel's gradient."""
    graph = fx_graph_cse(module.graph)
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def fuse_linear(module: GraphModule) -> GraphModule:
    """`a @ b.T` becomes linear(a, b), which needs no transpose."""
    for node in list(module.graph.nodes):
        if node.target not in (aten.mm.default, aten.addmm.default) or node.kwargs:
            continue
        *bias, left, right = node.args
        if right.target is aten.clone.default:
            right = right.args[0]
        if right.target is aten.permute.default and list(right.args[1]) == [1, 0]:
            with module.graph.inserting_before(node):
                linear = module.graph.call_function(aten.linear.default, (left, right.args[0], *bias))
            linear.meta = node.meta
            node.replace_all_uses_with(linear)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
