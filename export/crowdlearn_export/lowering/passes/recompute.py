"""Values that are computed again where they are read late, instead of being kept until then.

Where a step's loss is computed, all that its gradients read is alive: there it needs the most memory. Columns
of a convolution are several times the map that they are gathered from, and that map is kept anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from crowdlearn_export.graph.memory_curves import MemoryUse

aten = torch.ops.aten

Size = Callable[[Node], int]
"""Bytes of a node's tensor at the largest batch."""

GATHERS = frozenset({aten.index_select.default, aten.cat.default, aten.permute.default})
"""Copies, which cost little more than to read from memory what they make."""

ELEMENTWISE = frozenset({
    aten.abs.default, aten.add.Tensor, aten.hardtanh.default, aten.maximum.default, aten.minimum.default,
    aten.mul.Tensor, aten.neg.default, aten.relu.default, aten.sub.Tensor,
})  # fmt: skip
"""Operations of an instruction or two for each element."""

AGAIN = GATHERS | ELEMENTWISE
"""The operators whose results are computed again."""

NARROW: Mapping[MemoryUse, int] = {"fastest": 0, "balanced": 64, "least": 0}
"""The bytes from which rows are gathered again: copying shorter ones costs mostly the call."""

LATE = "late"
"""The mark of calls behind the moment of most memory: no part for a delegate may hold some of either side."""

LONGEST: Mapping[MemoryUse, tuple[int, ...]] = {"fastest": (), "balanced": (3,), "least": (3, 8)}
"""Operations in a row that are computed again for one value, the shorter rows first: three are a batch norm's
scale and shift, and the ReLU behind it.
"""

VIEWS = (aten.view.default, aten.clone.default)
"""Operators that name memory that another node makes: a program's copies are dropped."""


def recompute(module: GraphModule, size: Size, memory: MemoryUse) -> GraphModule:
    """Make once more, in a lowered method, some values for their readers behind the moment of most memory:
    what `memory` allows and frees memory there. Return the method.
    """
    if LONGEST[memory]:
        made_again: set[Node] = set()
        for longest in LONGEST[memory]:
            while _freed(module, size, longest, NARROW[memory], made_again):
                pass
        nodes = list(module.graph.nodes)
        peak = _moment_of_most(_values(nodes), len(nodes), size)
        for at, node in enumerate(nodes):
            node.meta[LATE] = at > peak
        module.recompile()
    return module


@dataclass
class _Value:
    """Memory that a node makes: its places in the graph, first, last and of each reader, and its views."""

    made: int
    ends: int
    readers: dict[Node, int]
    views: list[Node]


def _freed(module: GraphModule, size: Size, longest: int, narrow: int, made_again: set[Node]) -> bool:
    """Make again what is worth it at the moment of most memory, by `longest` operations in a row at most;
    return whether there was anything. Rows of less than `narrow` bytes are not gathered again.
    """
    nodes = list(module.graph.nodes)
    values = _values(nodes)
    peak = _moment_of_most(values, len(nodes), size)
    alive = [node for node, value in values.items() if value.made < peak < value.ends]
    needed: set[Node] = set()
    found = False
    for node in sorted(alive, key=size, reverse=True):
        if not _cheap(node, narrow) or node in made_again or node in needed:
            continue
        late = {reader: at for reader, at in values[node].readers.items() if at > peak}
        first = min(late, key=late.__getitem__)
        chain, read = _chain(node, late[first], values, longest, narrow)
        kept = sum(size(n) for n in read if values[n].ends < late[first])
        if kept >= size(node):
            continue
        made_again |= _make_again(module, chain, values, late, first)
        for operand in read:
            values[operand].ends = max(values[operand].ends, late[first])
        values[node].ends = peak
        needed |= {*read, *chain}
        found = True
    return found


def _cheap(node: Node, narrow: int) -> bool:
    """Return whether to have a result once more costs little more than to read it from memory."""
    if node.target is not aten.index_select.default or not narrow or "val" not in node.meta:
        return node.target in AGAIN
    value, (_, dim, _) = node.meta["val"], node.args
    assert isinstance(dim, int)
    row = value.shape[dim + 1 :]
    return not all(isinstance(size, int) for size in row) or prod(row) * value.element_size() >= narrow


def _chain(
    node: Node, at: int, values: Mapping[Node, _Value], longest: int, narrow: int
) -> tuple[list[Node], list[Node]]:
    """Return the nodes that are computed to have the value of `node` at a place, in their order, and the
    values that they read.
    """
    chain, read = [node], dict.fromkeys(_operands(node, values))
    while len(chain) < longest:
        gone = [n for n in read if values[n].ends < at and _cheap(n, narrow)]
        if not gone:
            break
        last = max(gone, key=lambda n: values[n].made)
        del read[last]
        read |= dict.fromkeys(_operands(last, values))
        chain.append(last)
    return sorted(chain, key=lambda n: values[n].made), list(read)


def _make_again(
    module: GraphModule,
    chain: list[Node],
    values: Mapping[Node, _Value],
    late: Mapping[Node, int],
    first: Node,
) -> set[Node]:
    """Copy a chain, with the views of what it makes, before the first late reader of its end, which all of
    them then read.
    """
    copies: dict[Node, Node] = {}

    def copied(node: Node) -> Node:
        return copies.get(node, node)

    with module.graph.inserting_before(first):
        for made in chain:
            for node in (made, *values[made].views):
                copies[node] = module.graph.node_copy(node, copied)
    for reader in late:
        reader.args = map_arg(reader.args, copied)
        reader.kwargs = map_arg(reader.kwargs, copied)
    for node in reversed(list(copies)):
        if not copies[node].users:
            module.graph.erase_node(copies.pop(node))
    return set(copies.values())


def _values(nodes: list[Node]) -> dict[Node, _Value]:
    """Return all memory that calls make, by the node that makes it."""
    found: dict[Node, _Value] = {}
    for at, node in enumerate(nodes):
        read = _operands(node, found)
        if node.target in VIEWS:
            for source in read:
                found[source].views.append(node)
        elif node.op in ("call_function", "output"):
            for source in read:
                found[source].readers[node] = found[source].ends = at
            if node.op == "call_function":
                found[node] = _Value(at, at, {}, [])
    return found


def _operands(node: Node, values: Mapping[Node, _Value]) -> Iterator[Node]:
    """Yield the nodes that make the memory that a node reads; inputs and constants have memory anyway."""
    for operand in node.all_input_nodes:
        while operand.target in VIEWS:
            operand = operand.args[0]  # type: ignore[assignment]
        if operand in values:
            yield operand


def _moment_of_most(values: Mapping[Node, _Value], moments: int, size: Size) -> int:
    """Return the place in the graph where most bytes are alive."""
    change = [0] * (moments + 1)
    for node, value in values.items():
        change[value.made] += size(node)
        change[value.ends + 1] -= size(node)
    alive = list(accumulate(change))
    return max(range(moments), key=alive.__getitem__)
