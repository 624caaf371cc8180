"""Sums over rows inside XNNPACK, which adds many at once where the portable kernel adds one by one.

A sum becomes a mean over dimension 1 of four, [A, N, 1, C] -> [A, 1, 1, C], times N: what XNNPACK's global
average pooling computes of the same memory. ExecuTorch offers that node for maps [B, C, H, W] alone, and
turns them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.backends.xnnpack.partition.config import generic_node_configs as generic
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGlobalAvgPooling2d, XNode
from executorch.backends.xnnpack.utils.xnnpack_constants import XNN_FLAG_KEEP_DIMS
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

MEAN = "aten.mean.dim"

FEWEST, SIDE_BY_SIDE = 8, 64
"""Numbers that are added side by side: as few as are worth it, as many as a single row is split into."""


def sums_as_means(module: GraphModule, large: int) -> GraphModule:
    """A copy of a lowered method whose sums of `large` float32 tensors over one dimension are such means."""
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        if node.target is aten.sum.dim_IntList and len(node.args) == 2 and not node.kwargs:
            source, dims = node.args
            value = source.meta["val"]
            if len(dims) == 1 and value.dtype is torch.float32 and elements(value) >= large:
                with graph.inserting_before(node):
                    node.replace_all_uses_with(_summed(graph, source, dims[0] % value.dim()) or node)
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def elements(value: torch.Tensor) -> int:
    """Return how many there are for the example batch."""
    return prod(map(hinted, value.shape))


def hinted(size: int | torch.SymInt) -> int:
    """A size for the example batch."""
    return size if isinstance(size, int) else int(size.node.hint)


def _summed(graph: Graph, source: Node, dim: int) -> Node | None:
    """The sum of `source` over `dim`; None if its rows are too short to be added side by side."""
    shape = source.meta["val"].shape
    before, count, after = prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :])
    split = 1 if after > 1 else gcd(_constant_factor(count), SIDE_BY_SIDE)
    if after * split < FEWEST:
        return None
    four = graph.call_function(
        aten.view.default, (source, _viewed([before, count // split, 1, after * split]))
    )
    total = graph.call_function(aten.mean.dim, (four, [1], True))
    if split > 1:
        total = graph.call_function(aten.view.default, (total, _viewed([before, split])))
        total = graph.call_function(aten.sum.dim_IntList, (total, [1]))
    total = graph.call_function(aten.view.default, (total, _viewed([*shape[:dim], *shape[dim + 1 :]])))
    if isinstance(count, int):
        return graph.call_function(aten.mul.Tensor, (total, float(count // split)))
    size = graph.call_function(aten.sym_size.int, (four, 1))
    # ExecuTorch multiplies by no size of a tensor, but fills with one.
    filled = graph.call_function(aten.full.default, ([1], size), {"dtype": torch.float32})
    return graph.call_function(aten.mul.Tensor, (total, filled))


def _viewed(shape: Sequence[int | torch.SymInt]) -> list[int]:
    """A shape for `view`, which finds the one size that depends on the batch."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _constant_factor(size: int | torch.SymInt) -> int:
    """Return what divides a size at every batch."""
    return size if isinstance(size, int) else int(size.node.expr.as_coeff_Mul()[0])


class MeanConfig(generic.MeanDimConfig):  # type: ignore[misc]
    """Takes means over rows."""

    def check_constraints(self, node: Node, program: Any) -> bool:
        """Return whether `node` is one that RowMean writes."""
        shape = node.all_input_nodes[0].meta["val"].shape
        return len(shape) == 4 and shape[2] == 1 and list(node.args[1:]) == [[1], True] and not node.kwargs


class RowMean(NodeVisitor):  # type: ignore[misc]
    """Writes them."""

    target = MEAN

    def define_node(
        self, node: Node, xnn_graph: Any, vals_to_ids: dict[Node, int], debug_handle: int
    ) -> None:
        """Add the node to the delegate's graph."""
        self.define_nodes_tensor_inputs_outputs(node, xnn_graph, vals_to_ids)
        read, made = vals_to_ids[node.all_input_nodes[0]], vals_to_ids[node]
        pooling = XNNGlobalAvgPooling2d(input_id=read, output_id=made, flags=XNN_FLAG_KEEP_DIMS)
        xnn_graph.xnodes.append(XNode(xnode_union=pooling, debug_handle=debug_handle))
