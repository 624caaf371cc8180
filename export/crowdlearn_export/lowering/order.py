"""The order in which a program computes decides how much memory it touches."""

from __future__ import annotations

from itertools import pairwise

from torch.fx import GraphModule, Node


def sort_in_place(module: GraphModule) -> GraphModule:
    """Every node after what it reads, and otherwise where it was.

    ExecuTorch's own sort, after each part that a delegate takes, computes breadth first: values wait for
    their readers while all others are made, in twice the memory.
    """
    ordered: list[Node] = []
    seen: set[Node] = set()
    for root in module.graph.nodes:
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
    for before, node in pairwise(ordered):
        if before.next is not node:
            before.append(node)
    return module
