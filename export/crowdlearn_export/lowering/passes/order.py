"""The order in which a program computes decides how much memory it touches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import pairwise

from executorch.exir.dialects._ops import ops as exir_ops
from torch.fx import GraphModule, Node

Size = Callable[[Node], int]
"""Bytes of a node's tensor at the largest batch."""

VIEWS = (exir_ops.edge.aten.view_copy.default, operator.getitem)
"""Operators that name memory that another node makes."""


def sort_in_place(module: GraphModule) -> GraphModule:
    """Put every node after what it reads, and otherwise where it was.

    ExecuTorch's own sort, after each part that a delegate takes, computes breadth first: values wait for
    their readers while all others are made, in twice the memory.
    """
    ordered: list[Node] = []
    seen: set[Node] = set()
    for root in module.graph.nodes:
        _reach(root, seen, ordered)
    _arrange(ordered)
    return module


def free_early(module: GraphModule, size: Size) -> None:
    """Run what frees more memory than it takes as soon as everything that it reads is there. An example is
    the gradient of a kernel, the last reader of its columns.
    """
    ordered: list[Node] = []
    seen: set[Node] = set()
    for root in module.graph.nodes:
        _reach(root, seen, ordered)
        waiting = [root]
        while waiting:
            done = waiting.pop()
            touched = [done, *_roots(done)]
            for reader in dict.fromkeys(r for node in touched for r in _readers(node)):
                if reader not in seen and reader.op == "call_function" and _shrinks(reader, seen, size):
                    _reach(reader, seen, ordered)
                    waiting.append(reader)
    _arrange(ordered)
    module.recompile()


def apart(nodes: Sequence[Node], size: Size, least: int) -> list[list[Node]]:
    """Return a part in groups of nodes. A group that has nothing to do with the others can run early, as a
    part of its own: if it frees at least `least` bytes more than it takes. Others that make less than `least`
    stay with one of those.
    """
    rest: list[Node] = []
    alone: list[list[Node]] = []
    for group in _groups(nodes):
        read = {_root(n) for node in group for n in node.all_input_nodes if n not in group}
        made = [node for node in group if not group.keys() >= node.users.keys()]
        freed = sum(size(n) for n in read if n.op == "call_function") - sum(map(size, made))
        if freed >= least:
            alone.append(list(group))
        else:
            rest += group
    if alone and sum(map(size, rest)) < least:
        alone[0] += rest
        return alone
    return [rest, *alone]


def _groups(nodes: Sequence[Node]) -> list[dict[Node, None]]:
    """Return the nodes that read one another, directly or not, together."""
    groups: dict[Node, dict[Node, None]] = {}
    for node in nodes:
        joined = {node: None}
        for other in (*node.all_input_nodes, *node.users):
            joined |= groups.get(other, {})
        groups |= dict.fromkeys(joined, joined)
    return list({id(group): group for group in groups.values()}.values())


def _shrinks(node: Node, seen: set[Node], size: Size) -> bool:
    """Return whether a node whose operands are there frees more than it takes."""
    roots = _roots(node)
    if any(root not in seen for root in roots if root.op != "get_attr"):
        return False
    ended = [r for r in roots if r.op == "call_function" and all(u is node or u in seen for u in _readers(r))]
    results = [u for u in node.users if u.target is operator.getitem] or [node]
    return sum(map(size, ended)) > sum(map(size, results))


def _root(node: Node) -> Node:
    """Return the node that makes the memory of `node`; a result of a delegate is memory of its own."""
    while node.target is VIEWS[0]:
        node = node.args[0]  # type: ignore[assignment]
    return node


def _roots(node: Node) -> list[Node]:
    return list(dict.fromkeys(map(_root, node.all_input_nodes)))


def _readers(node: Node) -> list[Node]:
    """Return what reads the memory of `node`, through views and of a delegate through its results."""
    return [r for user in node.users for r in (_readers(user) if user.target in VIEWS else [user])]


def _reach(root: Node, seen: set[Node], ordered: list[Node]) -> None:
    """Order what `root` reads and is not ordered yet, then `root`."""
    waiting = [root]
    while waiting:
        node = waiting[-1]
        missing = [] if node in seen else [n for n in node.all_input_nodes if n not in seen]
        if missing:
            waiting += reversed(missing)
            continue
        waiting.pop()
        if node not in seen:
            seen.add(node)
            ordered.append(node)


def _arrange(ordered: list[Node]) -> None:
    for before, node in pairwise(ordered):
        if before.next is not node:
            before.append(node)
