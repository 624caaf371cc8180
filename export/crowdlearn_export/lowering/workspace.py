"""The memory that XNNPACK takes beside ExecuTorch's arenas."""

from __future__ import annotations

from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from .sizes import bytes_of

PRODUCTS = ("aten.mm.", "aten.addmm.", "aten.linear.", "aten.bmm.")


def workspace_bytes(program: ExportedProgram, max_batch: int) -> int:
    """Return the workspace of a method whose parts are delegated already, for batches up to `max_batch`.

    A delegate keeps its inner values there while they live, and of a product with weights that are inputs the
    packed weights. All delegates of a process share one workspace, so the largest counts.
    """
    return max((_largest(module, max_batch) for module in _delegates(program)), default=0)


def _delegates(program: ExportedProgram) -> Iterator[GraphModule]:
    for node in program.graph.nodes:
        if node.op == "get_attr":
            lowered = getattr(program.graph_module, str(node.target))
            if hasattr(lowered, "original_module"):
                yield lowered.original_module.graph_module


def _largest(module: GraphModule, max_batch: int) -> int:
    nodes = list(module.graph.nodes)
    last = {used: i for i, node in enumerate(nodes) for used in node.all_input_nodes}
    given = set(nodes[-1].all_input_nodes)
    live = most = 0
    ending: dict[int, list[Node]] = {}
    for i, node in enumerate(nodes):
        packed = 0
        if node.op == "call_function":
            if any(name in str(node.target) for name in PRODUCTS):
                weight = node.args[-1] if isinstance(node.args[-1], Node) else node.args[1]
                packed = bytes_of(weight, max_batch)
            if node not in given:
                live += bytes_of(node, max_batch)
                ending.setdefault(last.get(node, i), []).append(node)
        most = max(most, live + packed)
        live -= sum(bytes_of(done, max_batch) for done in ending.pop(i, []))
    return most
