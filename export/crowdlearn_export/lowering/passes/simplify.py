"""Small passes over the traced graph: equal constants, equal expressions, views, products with a
transpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch._functorch.compile_utils import fx_graph_cse
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument

from crowdlearn_export.lowering.sizes import dimension

aten = torch.ops.aten

LARGE_WEIGHT, FEW_ROWS = 500_000, 64
"""The least elements of a weight, and the most rows of its operand at the largest batch. With these packing
the rows is faster at a batch of 1, too.
"""


def share_constants(module: GraphModule) -> GraphModule:
    """Make one node of index tables with equal contents: expressions are equal only if their operands are."""
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
    """Make equal calls one: the columns of the forward pass are those of the kernel's gradient."""
    graph = fx_graph_cse(module.graph)
    graph.eliminate_dead_code()
    return GraphModule(module, graph)


def sink_views(module: GraphModule) -> GraphModule:
    """Move elementwise operations on views to what is viewed, next to what made it: a product and its
    activation become neighbours.
    """
    for node in list(module.graph.nodes):
        if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
            continue
        views = [n for n in node.all_input_nodes if _shape(n)]
        if not views or any(n.target is not aten.view.default for n in views):
            continue
        if len({_shape(n) for n in views}) > 1 or len({_shape(n.args[0]) for n in views}) > 1:
            continue
        with module.graph.inserting_before(node):
            below = module.graph.node_copy(node, lambda n: n.args[0] if _shape(n) else n)
            view = module.graph.call_function(aten.view.default, (below, views[0].args[1]))
        below.meta = {"val": node.meta["val"].new_empty(views[0].args[0].meta["val"].shape)}
        view.meta = node.meta
        node.replace_all_uses_with(view)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    return module


def join_views(module: GraphModule) -> GraphModule:
    """Join views of views into one, and drop views that change nothing."""
    for node in list(module.graph.nodes):
        if node.target is not aten.view.default:
            continue
        source = node.args[0]
        if source.target is aten.view.default:
            source = source.args[0]
            node.args = (source, node.args[1])
        if _shape(source) == _shape(node):
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    return module


def _shape(node: Node) -> tuple[str, ...]:
    return tuple(str(size) for size in getattr(node.meta["val"], "shape", ()))


def infer_batches(module: GraphModule) -> GraphModule:
    """Let views find the one size that depends on the batch: no program needs to compute it."""
    for node in module.graph.nodes:
        if node.target is aten.view.default:
            shape = [size if isinstance(size, int) else -1 for size in node.meta["val"].shape]
            if shape.count(-1) == 1:
                node.args = (node.args[0], shape)
    module.graph.eliminate_dead_code()
    return module


def name_floats(module: GraphModule) -> GraphModule:
    """Write whole numbers that are combined with floats as floats, which a program would turn them into."""
    for node in module.graph.nodes:
        value, schema = node.meta.get("val"), getattr(node.target, "_schema", None)
        if schema is None or not isinstance(value, torch.Tensor) or not value.is_floating_point():
            continue
        asked = [isinstance(argument.type, torch.TensorType) for argument in schema.arguments]
        node.args = tuple(
            float(x) if tensor and type(x) is int else x for x, tensor in zip(node.args, asked, strict=False)
        )
    return module


def fuse_linear(module: GraphModule) -> GraphModule:
    """Make `a @ b.T` linear(a, b), which needs no transpose."""
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


def turn_large_weights(module: GraphModule, batch: int) -> GraphModule:
    """Make linear(a, b) linear(b, a), turned, where b is a large weight and a has few rows at this batch: the
    right operand is packed at every call.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not aten.linear.default:
            continue
        left, weight, *bias = node.args
        size, rows = weight.meta["val"].numel(), dimension(left.meta["val"].shape[0], batch)
        if left.meta["val"].dim() != 2 or not isinstance(size, int) or size < LARGE_WEIGHT or rows > FEW_ROWS:
            continue
        with graph.inserting_before(node):
            result = graph.call_function(aten.linear.default, (weight, left))
            result = graph.call_function(aten.permute.default, (result, [1, 0]))
            result = graph.call_function(
                aten.clone.default, (result,), {"memory_format": torch.contiguous_format}
            )
            if bias:
                result = graph.call_function(aten.add.Tensor, (result, bias[0]))
        result.meta = node.meta
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    module.recompile()
    return module


def widen_late(module: GraphModule) -> GraphModule:
    """Turn inputs that are held in fewer bytes into float32 right before each of their readers, and multiply
    them there by their spacings: they are in memory as float32 only there.
    """
    for node in list(module.graph.nodes):
        if node.target is aten._to_copy.default and node.args[0].op == "placeholder":
            _before_readers(module.graph, [node])
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def _spaced(node: Node) -> bool:
    """Return whether a node multiplies by an input, and its result is as large as an operand."""
    if node.target is not aten.mul.Tensor:
        return False
    operands = [operand for operand in node.args if isinstance(operand, Node)]
    large = any(operand.meta["val"].shape == node.meta["val"].shape for operand in operands)
    return large and any(_is_input(operand) for operand in operands)


def _is_input(node: Argument) -> bool:
    while isinstance(node, Node) and node.target is aten.view.default:
        node = node.args[0]
    return isinstance(node, Node) and node.op == "placeholder"


def _before_readers(graph: Graph, path: Sequence[Node]) -> None:
    """Copy a node, its views and its products with spacings that lead to a reader, before each of their
    readers.
    """
    for reader in list(path[-1].users):
        if reader.target is aten.view.default or _spaced(reader):
            _before_readers(graph, [*path, reader])
            continue
        copies: dict[Node, Node] = {}

        def copied(node: Node, copies: dict[Node, Node] = copies) -> Node:
            return copies.get(node, node)

        with graph.inserting_before(reader):
            for step in path:
                copies[step] = graph.node_copy(step, copied)
        reader.replace_input_with(path[-1], copies[path[-1]])
