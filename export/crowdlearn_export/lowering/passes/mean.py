"""Long sums in two stages, and large ones inside XNNPACK, which adds many at once.

Added one by one in float32, thousands of numbers cost digits: 4e-06 of a batch norm's mean over 32 maps of
32x32. Added in about as many rows as each of them is long, and the rows' sums after them, they cost 2e-07.

A sum in XNNPACK is a mean over dimension 1 of four, [A, N, 1, C] -> [A, 1, 1, C], times N: what its global
average pooling computes of the same memory. ExecuTorch offers that node for maps [B, C, H, W] alone, and
turns them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, prod
from typing import Any

import torch
from executorch.backends.xnnpack.operators.node_visitor import NodeVisitor
from executorch.backends.xnnpack.partition.config import generic_node_configs as generic
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGlobalAvgPooling2d, XNode
from executorch.backends.xnnpack.utils.xnnpack_constants import XNN_FLAG_KEEP_DIMS
from torch.fx import Graph, GraphModule, Node

from crowdlearn_export.lowering.sizes import dimension, elements

aten = torch.ops.aten

MEAN = "aten.mean.dim"

FEWEST, MOST = 8, 4096
"""Numbers that XNNPACK adds side by side: as few as are worth it, as many as stay in a core's cache."""

LONG = 64
"""Numbers in a row, at the largest batch, that are added in two stages."""


def sums_in_stages(module: GraphModule, large: float, batch: int) -> GraphModule:
    """Return a copy of a lowered method whose long float32 sums are over one dimension each. Sums and means
    have two stages; sums of tensors that are `large` at this `batch` are means in XNNPACK.
    """
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in list(graph.nodes):
        if _is_sum(node) and len(node.args[1]) > 1:
            _over_one_each(graph, node, batch)
    for node in graph.nodes:
        if _is_sum(node) or _is_mean(node):
            source, dims = node.args
            value, staging = source.meta["val"], _summed if _is_sum(node) else _averaged
            if len(dims) == 1:
                with graph.inserting_before(node):
                    staged = staging(
                        graph, source, dims[0] % value.dim(), elements(value, batch) >= large, batch
                    )
                if staged is not None:
                    staged.meta["val"] = node.meta["val"]
                    node.replace_all_uses_with(staged)
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def _is_sum(node: Node) -> bool:
    """Return whether a node adds float32 numbers over dimensions that go."""
    plain = node.target is aten.sum.dim_IntList and len(node.args) == 2 and not node.kwargs
    return plain and node.args[0].meta["val"].dtype is torch.float32  # type: ignore[union-attr]


def _is_mean(node: Node) -> bool:
    """Return whether a node averages float32 numbers over dimensions that go."""
    plain = node.target is aten.mean.dim and len(node.args) == 2 and not node.kwargs
    return plain and node.args[0].meta["val"].dtype is torch.float32  # type: ignore[union-attr]


def _over_one_each(graph: Graph, node: Node, batch: int) -> None:
    """Write a long sum over several dimensions as sums over one each, the last first."""
    source, dims = node.args
    assert isinstance(source, Node)
    value = source.meta["val"]
    ordered = sorted((dim % value.dim() for dim in dims), reverse=True)  # type: ignore[union-attr]
    if prod(dimension(value.shape[dim], batch) for dim in ordered) < LONG:
        return
    total = source
    for dim in ordered:
        with graph.inserting_before(node):
            total = graph.call_function(aten.sum.dim_IntList, (total, [dim]))
        value = total.meta["val"] = value.sum([dim])
    node.replace_all_uses_with(total)
    graph.erase_node(node)


def _summed(graph: Graph, source: Node, dim: int, large: bool, batch: int) -> Node | None:
    """Return the sum of `source` over `dim`; None if it stays as it is."""
    shape = source.meta["val"].shape
    before, count, after = prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :])
    split = _rows(count, after, batch)
    large = large and after * split >= FEWEST
    if not large and (split == 1 or dimension(count, batch) < LONG):
        return None
    rows = graph.call_function(
        aten.view.default, (source, _viewed([before, count // split, 1, after * split]))
    )
    total = (
        graph.call_function(aten.mean.dim, (rows, [1], True))
        if large
        else graph.call_function(aten.sum.dim_IntList, (rows, [1]))
    )
    if split > 1:
        total = graph.call_function(aten.view.default, (total, _viewed([before, split, after])))
        total = graph.call_function(aten.sum.dim_IntList, (total, [1]))
    total = graph.call_function(aten.view.default, (total, _viewed([*shape[:dim], *shape[dim + 1 :]])))
    if not large:
        return total
    if isinstance(count, int):
        return graph.call_function(aten.mul.Tensor, (total, float(count // split)))
    size = graph.call_function(aten.sym_size.int, (rows, 1))
    # ExecuTorch multiplies by no size of a tensor, but fills with one.
    filled = graph.call_function(aten.full.default, ([1], size), {"dtype": torch.float32})
    return graph.call_function(aten.mul.Tensor, (total, filled))


def _averaged(graph: Graph, source: Node, dim: int, large: bool, batch: int) -> Node | None:
    """Return the mean of `source` over `dim` as that of the means of equally many; None if it stays as it
    is.
    """
    shape = source.meta["val"].shape
    before, count, after = prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :])
    split = _rows(count, after, batch)
    if split == 1 or dimension(count, batch) < LONG:
        return None
    rows = graph.call_function(
        aten.view.default, (source, _viewed([before, count // split, 1, after * split]))
    )
    kept = (True,) if large and after * split >= FEWEST else ()
    means = graph.call_function(aten.mean.dim, (rows, [1], *kept))
    means = graph.call_function(aten.view.default, (means, _viewed([before, split, after])))
    means = graph.call_function(aten.mean.dim, (means, [1]))
    return graph.call_function(aten.view.default, (means, _viewed([*shape[:dim], *shape[dim + 1 :]])))


def _rows(count: int | torch.SymInt, after: int, batch: int) -> int:
    """Return the number of rows side by side that are summed first, of `count` rows of `after` numbers. It is
    about the square root of `count`, which makes the fewest additions in a row.
    """
    factor, root = _constant_factor(count), dimension(count, batch) ** 0.5
    most = min(factor, max(MOST // after, 1))
    fitting = [split for split in range(1, most + 1) if factor % split == 0]
    return min(fitting, key=lambda split: abs(log2(split / root)))


def _viewed(shape: Sequence[int | torch.SymInt]) -> list[int]:
    """Return a shape for `view`, which finds the one size that depends on the batch."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _constant_factor(size: int | torch.SymInt) -> int:
    """Return what divides a size at every batch."""
    return size if isinstance(size, int) else int(size.node.expr.as_coeff_Mul()[0])


class MeanConfig(generic.MeanDimConfig):  # type: ignore[misc]
    """The pattern of means over rows."""

    def check_constraints(self, node: Node, program: Any) -> bool:
        """Return whether `node` is one that RowMean writes."""
        shape = node.all_input_nodes[0].meta["val"].shape
        return len(shape) == 4 and shape[2] == 1 and list(node.args[1:]) == [[1], True] and not node.kwargs


class RowMean(NodeVisitor):  # type: ignore[misc]
    """The writer of such means."""

    target = MEAN

    def define_node(
        self, node: Node, xnn_graph: Any, vals_to_ids: dict[Node, int], debug_handle: int
    ) -> None:
        """Add the node to the delegate's graph."""
        self.define_nodes_tensor_inputs_outputs(node, xnn_graph, vals_to_ids)
        read, made = vals_to_ids[node.all_input_nodes[0]], vals_to_ids[node]
        pooling = XNNGlobalAvgPooling2d(input_id=read, output_id=made, flags=XNN_FLAG_KEEP_DIMS)
        xnn_graph.xnodes.append(XNode(xnode_union=pooling, debug_handle=debug_handle))
