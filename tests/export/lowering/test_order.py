"""Operations are ordered, and parts divided, so that memory is freed early."""

from __future__ import annotations

import torch
from crowdlearn_export.lowering.passes.order import apart, free_early
from torch.fx import Graph, GraphModule

aten = torch.ops.aten


def build(*operations):
    """A graph of (name, bytes, operands); the operands without a maker are inputs, the values without a
    reader outputs.
    """
    graph, nodes, sizes = Graph(), {}, {}
    made = {name for name, _, _ in operations}
    for given in dict.fromkeys(n for _, _, read in operations for n in read if n not in made):
        nodes[given] = graph.placeholder(given)
    for name, size, read in operations:
        nodes[name] = graph.create_node(
            "call_function", aten.add.Tensor, tuple(nodes[n] for n in read), name=name
        )
        sizes[nodes[name]] = size
    graph.output(tuple(n for n in nodes.values() if not n.users))
    return GraphModule({}, graph), nodes, lambda node: sizes.get(node, 0)


def test_the_last_reader_of_a_large_value_runs_as_soon_as_it_can():
    module, _, size = build(
        ("columns", 100, ["x"]),
        ("product", 20, ["columns"]),
        ("error", 20, ["product"]),
        ("further", 50, ["error"]),
        ("gradient", 1, ["columns", "error"]),
    )
    free_early(module, size)
    order = [node.name for node in module.graph.nodes if node.op == "call_function"]
    assert order == ["columns", "product", "error", "gradient", "further"]


def test_what_frees_nothing_stays_where_it_was():
    module, _, size = build(
        ("a", 10, ["x"]), ("b", 10, ["a"]), ("c", 10, ["b"]), ("d", 1, ["a"]), ("e", 10, ["a"])
    )
    free_early(module, size)
    order = [node.name for node in module.graph.nodes if node.op == "call_function"]
    assert order == ["a", "b", "c", "d", "e"]


def test_a_group_that_frees_much_is_a_part_of_its_own():
    _, nodes, size = build(
        ("columns", 100, ["x"]),
        ("error", 20, ["x"]),
        ("turned", 20, ["error"]),
        ("gradient", 1, ["turned", "columns"]),
        ("mask", 30, ["error"]),
        ("masked", 30, ["mask"]),
        ("after", 1, ["gradient", "masked"]),
    )
    part = [nodes[n] for n in ("mask", "turned", "masked", "gradient")]

    def names(least):
        return [{n.name for n in group} for group in apart(part, size, least)]

    assert names(50) == [{"mask", "masked"}, {"turned", "gradient"}]
    assert names(1000) == [{n.name for n in part}]


def test_what_is_small_stays_with_a_group_that_frees_much():
    _, nodes, size = build(
        ("columns", 100, ["x"]),
        ("others", 100, ["x"]),
        ("gradient", 1, ["columns"]),
        ("total", 1, ["others"]),
        ("small", 1, ["x"]),
    )
    part = [nodes["gradient"], nodes["small"]]
    groups = [{n.name for n in group} for group in apart([*part, nodes["total"]], size, least=50)]
    assert groups == [{"gradient", "small"}, {"total"}]
