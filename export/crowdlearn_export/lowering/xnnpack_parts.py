"""The work of XNNPACK's partitioner and passes, for graphs with hundreds of parts: by bits and in place."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from executorch.backends.transforms.addmm_mm_to_linear import apply_addmm_mm_to_linear_transform
from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack._passes import FuseActivationPass
from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as serializing
from executorch.exir import lowered_backend_module
from executorch.exir.backend import backend_api
from executorch.exir.backend.canonical_partitioners import group_partitioner
from executorch.exir.dialects._ops import ops as exir_ops
from torch.fx import Graph, GraphModule, Node

from .passes.order import sort_in_place
from .passes.recompute import LATE
from .passes_in_place import copied
from .shortcuts import replaced

MOST_JOINED = 5
"""Tensors that one concatenation of XNNPACK joins."""
KEPT = 4096
"""Parts that are kept as bytes: networks repeat their blocks."""


@contextmanager
def many_parts() -> Iterator[None]:
    """Have a graph with many parts divided and written in less time, to the same parts, meanwhile."""
    partitioner = group_partitioner.GroupBasedPartitioner
    with ExitStack() as stack:
        for owner, name, value in (
            (xnnpack_preprocess, "XNNPACKPassManager", _Prepared),
            (serializing, "convert_to_flatbuffer", _written),
            (group_partitioner, "_DependencyViewer", _Downstream),
            (partitioner, "_can_merge_partitions", _may_merge),
            (lowered_backend_module, "legalize_graph", lambda _: None),
            (backend_api, "_create_partitions", _sorted_once),
            (backend_api, "_get_node_list_with_same_tag", _Tagged()),
            (GraphModule, "__str__", object.__repr__),  # it is written for a log that nobody keeps
        ):
            stack.enter_context(replaced(owner, name, value))
        yield


_create_partitions: Callable[..., Any] = backend_api._create_partitions
_with_tag: Callable[..., list[Node]] = backend_api._get_node_list_with_same_tag


def _sorted_once(module: GraphModule, *given: Any) -> Any:
    """Divide a graph, and sort it when all parts are taken out: ExecuTorch sorts it after each."""
    found = _create_partitions(module, *given)
    sort_in_place(module)
    return found


class _Tagged:
    """The nodes of each part, found in one walk over the graph instead of one for each."""

    def __init__(self) -> None:
        self._module: GraphModule | None = None
        self._nodes: dict[str, list[Node]] = {}

    def __call__(self, module: GraphModule, tag: str, program: Any) -> list[Node]:
        if module is not self._module:
            self._module, self._nodes = module, defaultdict(list)
            for node in module.graph.nodes:
                self._nodes[node.meta.get("delegation_tag", "")].append(node)
        part: Any = SimpleNamespace(graph=SimpleNamespace(nodes=self._nodes[tag]))
        return _with_tag(part, tag, program)


class _Prepared:
    """The passes of XNNPACK that our graphs need; its others find nothing there, and each would trace every
    part once more.
    """

    def __init__(self, program: Any, passes: Any = None) -> None:
        self._program = program

    def transform(self) -> Any:
        module = copied(self._program.graph_module)
        module.graph = apply_addmm_mm_to_linear_transform(module.graph)
        _fuse_activations(module.graph)
        _join_few(module.graph)
        for node in module.graph.nodes:
            node.meta.pop("debug_handle", None)  # equal parts are equal bytes
        program = copy.copy(self._program)
        program._graph_module = module
        return program


def _fuse_activations(graph: Graph) -> None:
    """Let what makes a value clamp it as well."""
    passing = FuseActivationPass(None)
    for node in list(graph.nodes):
        if node.target in passing.FUSEABLE_ACTIVATIONS:
            source = node.args[0]
            if source.target in passing.FUSEABLE_OPS and len(source.users) == 1:
                source.meta[passing.FUSED_ACTIVATION_TAG] = passing.get_output_min_max_from_activation(node)
                node.replace_all_uses_with(source)
                graph.erase_node(node)


def _join_few(graph: Graph) -> None:
    """Join more tensors than MOST_JOINED in several steps."""
    cat = exir_ops.edge.aten.cat.default
    for node in list(graph.nodes):
        if node.target is not cat:
            continue
        sources, *dim = node.args
        while len(sources) > MOST_JOINED:
            values = [source.meta["val"] for source in sources[:MOST_JOINED]]
            with graph.inserting_before(node):
                first = graph.call_function(cat, (list(sources[:MOST_JOINED]), *dim))
            first.meta = {**node.meta, "val": torch.cat(values, *dim)}
            sources = [first, *sources[MOST_JOINED:]]
        node.args = (list(sources), *dim)


_bytes_of: dict[str, bytes] = {}
_write: Callable[[Any], bytes] = serializing.convert_to_flatbuffer


def _written(graph: Any) -> bytes:
    """Return the bytes of a part; of an equal one, what was written before: writing starts a process."""
    key = repr(graph)
    if key not in _bytes_of:
        if len(_bytes_of) >= KEPT:
            _bytes_of.clear()
        _bytes_of[key] = _write(graph)
    return _bytes_of[key]


class _Downstream:
    """The nodes that depend on each node, directly or not, as bits. Those of a complete part have all that
    depends on any of them: a part runs at once.
    """

    def __init__(self, module: GraphModule) -> None:
        nodes = list(module.graph.nodes)
        self.bit = {node: 1 << i for i, node in enumerate(nodes)}
        self.users = {node: sum(self.bit[user] for user in node.users) for node in nodes}
        self.down = [0] * len(nodes)
        for i in reversed(range(len(nodes))):
            for user in nodes[i].users:
                self.down[i] |= self.bit[user] | self.down[self.bit[user].bit_length() - 1]
        self._growing: int | None = None

    def grow(self, number: int, parts: Any) -> None:
        """Know that the part of this number is the one that others join now: the one before is complete."""
        if self._growing not in (None, number) and len(nodes := parts[self._growing].nodes) > 1:
            inside = sum(self.bit[node] for node in nodes)
            at_once = inside
            for node in nodes:
                at_once |= self.down[self.bit[node].bit_length() - 1]
            for i, down in enumerate(self.down):
                if (1 << i | down) & inside:
                    self.down[i] = down | at_once
        self._growing = number


def _touch(depends: _Downstream, first: Any, second: Any) -> bool:
    """Return whether one part reads what the other makes."""

    def reads(reader: Any, source: Any) -> bool:
        return any(depends.users[made] & depends.bit[node] for made in source.nodes for node in reader.nodes)

    return reads(first, second) or reads(second, first)


def _may_merge(self: Any, first: int, second: int, parts: Any) -> bool:
    """Return whether nothing outside of two parts lies on a way from one of their nodes to another: no node,
    and no other part, which ExecuTorch does not look for. Where values are computed again, one of them must
    also read the other, on one side of the moment of most memory.
    """
    depends: _Downstream = self.dependency_viewer
    depends.grow(first, parts)
    nodes: list[Node] = [*parts[first].nodes, *parts[second].nodes]
    inside = users = 0
    for node in nodes:
        inside |= depends.bit[node]
        users |= depends.users[node]
    sides = {node.meta.get(LATE) for node in nodes}
    if len(sides) > 1 or (sides != {None} and not _touch(depends, parts[first], parts[second])):
        return False
    outside = users & ~inside
    while outside:
        user = outside.bit_length() - 1
        if depends.down[user] & inside:
            return False
        outside ^= 1 << user
    return True
