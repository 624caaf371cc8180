"""Sizes that a forward looks up, as numbers: x.size(1), x.shape[-1], and what is computed from them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx


def write_sizes(graph: fx.Graph, values: Mapping[fx.Node, Any]) -> None:
    """Write sizes of neurons and maps, and numbers computed from them, where they are read; the batch's
    stay.
    """
    for node in graph.nodes:
        value = values.get(node)
        if isinstance(value, int) and (_is_size(node, values) or _is_computed(node)):
            written = functools.partial(_written, node, value)
            for user in list(node.users):
                user.args = fx.node.map_aggregate(user.args, written)
                user.kwargs = fx.node.map_aggregate(user.kwargs, written)


def _written(node: fx.Node, value: int, given: Any) -> Any:
    return value if given is node else given


def _is_size(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Return whether this is a size of a tensor along an axis that is not the batch's."""
    of: Any = node
    axis: Any = None
    if node.target == "size" and len(node.args) == 2:
        of, axis = node.args
    elif node.target is operator.getitem and isinstance(sizes := node.args[0], fx.Node) and _has_sizes(sizes):
        of, axis = sizes.args[0], node.args[1]
    tensor = values.get(of)
    return isinstance(tensor, Tensor) and isinstance(axis, int) and axis % tensor.dim() != 0


def _has_sizes(node: fx.Node) -> bool:
    return node.target == "size" or (node.target is getattr and node.args[1] == "shape")


def _is_computed(node: fx.Node) -> bool:
    """Return whether this is a number of numbers."""
    return node.op == "call_function" and bool(node.args) and all(isinstance(each, int) for each in node.args)
