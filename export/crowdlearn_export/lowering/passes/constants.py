"""Expressions of constants, computed once instead of in every call of a program."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

aten = torch.ops.aten

MOST = 1 << 14
"""Elements of the largest result that a program holds instead of computing it."""
FILLED = frozenset({aten.full.default, aten.zeros.default, aten.ones.default, aten.scalar_tensor.default})
"""Tensors of one number, which cost a program more bytes than time."""


def fold_constants(module: GraphModule) -> GraphModule:
    """Compute what depends on constants alone, as masks and identity matrices do, and hold the results."""
    known: dict[Node, torch.Tensor] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            known[node] = getattr(module, node.target)
        elif node.op == "call_function" and _is_small(node) and known.keys() >= set(node.all_input_nodes):
            known[node] = node.target(
                *map_arg(node.args, known.__getitem__), **map_arg(node.kwargs, known.__getitem__)
            )
    for node, value in known.items():
        if node.op == "get_attr" or node.target in FILLED or known.keys() >= set(node.users):
            continue
        name = f"_folded_{node.name}"
        module.register_buffer(name, value.detach().clone(memory_format=torch.contiguous_format))
        with module.graph.inserting_before(node):
            held = module.graph.get_attr(name)
        held.meta = node.meta
        node.replace_all_uses_with(held, lambda user: user not in known)
    module.graph.eliminate_dead_code()
    return module


def _is_small(node: Node) -> bool:
    """Return whether a call gives one tensor of known, not too many elements, the same each time."""
    value: Any = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or torch.Tag.nondeterministic_seeded in getattr(
        node.target, "tags", ()
    ):
        return False
    return all(isinstance(size, int) for size in value.shape) and value.numel() <= MOST
