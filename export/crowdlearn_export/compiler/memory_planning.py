"""Outputs and the memory of inputs: new weights take the place of the old ones, and no other output lies
there.

ExecuTorch gives every output memory of its own, and its Python binding copies it once more. A method that
names its updates has neither: the last operation that makes a new weight writes it where the caller holds
the old one.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from executorch.exir.memory import alloc, view
from executorch.exir.passes import MemoryPlanningPass
from torch.fx import GraphModule, Node

from .arena import WarmPlanning

VIEWS = (torch.ops.aten.view.default, operator.getitem)


def own_outputs(module: GraphModule, updates: Mapping[int, int]) -> GraphModule:
    """Copy what a lowered method returns of its inputs or constants, unchanged or as a view.

    The memory of inputs is the caller's. ExecuTorch's binding gives an output that lies there new memory, and
    with it the input: the method then reads zeros. An output that is the very input that it updates stays.
    """
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    given = [node for node in module.graph.nodes if node.op == "placeholder"]
    copies: dict[Node, Node] = {}

    def owned(position: int, value: Node) -> Node:
        root: Any = value
        while root.target in VIEWS:
            root = root.args[0]
        if root.op == "call_function" or (position in updates and value is given[updates[position]]):
            return value
        if value not in copies:
            with module.graph.inserting_after(given[-1] if value.op == "placeholder" else value):
                copies[value] = module.graph.call_function(torch.ops.aten.clone.default, (value,))
            copies[value].meta = dict(value.meta)
        return copies[value]

    output.args = (tuple(owned(i, value) for i, value in enumerate(output.args[0])),)
    module.recompile()
    return module


class InPlacePlanning(MemoryPlanningPass):  # type: ignore[misc]
    """The planning of memory for what lies between: inputs, and the outputs that update them, are where the
    caller holds the inputs. `updates` are positions of outputs and of the inputs whose places they take.
    """

    def __init__(self, updates: Mapping[int, int]) -> None:
        super().__init__(WarmPlanning(), alloc_graph_input=False)
        self._updates = updates

    def run(self, graph_module: GraphModule, graph_signature: Any) -> Any:
        # Constants are placeholders too.
        given = {name: i for i, name in enumerate(graph_signature.user_inputs)}
        nodes = {given[n.name]: n for n in graph_module.graph.nodes if n.name in given}
        update_in_place(graph_module, {new: nodes[old] for new, old in self._updates.items()})
        return super().run(graph_module, graph_signature)


def update_in_place(module: GraphModule, updates: Mapping[int, Node]) -> None:
    """Let the outputs at the positions in `updates` share the memory of the inputs that they replace, and be
    outputs no more. Where that memory is still read when an output is made, or the output is returned as
    well, it is copied there at the end.
    """
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    values, specs = list(output.args[0]), list(output.meta["spec"])
    returned = Counter(values)
    places: dict[int, Any] = {}
    for position, old in updates.items():
        new = values[position]
        if new is old:
            continue
        if returned[new] == 1 and _may_overwrite(new, old):
            places[id(new.meta["spec"])] = old.meta["spec"]
        else:
            with module.graph.inserting_before(output):
                _copy(new, old)
    _move(module, places)
    kept = [i for i in range(len(values)) if i not in updates]
    output.args = (tuple(values[i] for i in kept),)
    output.meta["spec"] = tuple(specs[i] for i in kept)
    module.recompile()


def _may_overwrite(new: Node, old: Node) -> bool:
    """Return whether `new` can be made in the memory of `old`: nothing reads `old` afterwards, and what makes
    `new` reads each element of `old` before it writes there.
    """
    delegated = new.target is operator.getitem
    writer: Any = new.args[0] if delegated else new
    if writer.op != "call_function" or writer.target is view or any(u.target is view for u in new.users):
        return False
    order = {node: i for i, node in enumerate(old.graph.nodes)}
    readers = _readers(old)
    if any(order[reader] > order[writer] for reader in readers):
        return False
    if writer not in readers:
        return True
    if not delegated:
        return _elementwise(writer)
    if old not in writer.args:  # it reads a view of it
        return False
    inner: Any = getattr(writer.graph.owning_module, writer.args[0].target).original_module.graph
    order = {node: i for i, node in enumerate(inner.nodes)}
    place = [node for node in inner.nodes if node.op == "placeholder"][writer.args.index(old) - 1]
    made = next(node for node in reversed(inner.nodes) if node.op == "output").args[0][new.args[1]]
    return _elementwise(made) and all(order[reader] <= order[made] for reader in place.users)


def _readers(node: Node) -> list[Node]:
    """Return what reads the memory of `node`, through views as well."""
    return [r for user in node.users for r in (_readers(user) if user.target is view else [user])]


def _elementwise(node: Node) -> bool:
    """Return whether every element of the result is made of those at its place in operands of its shape, or
    of scalars.
    """
    schema = getattr(node.target, "_schema", None)
    packet = schema and getattr(torch.ops.aten, schema.name.split("::")[1], None)
    if torch.Tag.pointwise not in getattr(getattr(packet, "Tensor", None), "tags", ()):
        return False
    operands = [n.meta["val"] for n in node.all_input_nodes if n.target is not alloc]
    return all(o.shape == node.meta["val"].shape or o.dim() == 0 for o in operands)


def _move(module: GraphModule, places: Mapping[int, Any]) -> None:
    """Give every mention of memory, by its specification's identity, the place that it has in `places`."""
    for node in module.graph.nodes:
        spec = node.meta.get("spec")
        if type(spec) in (tuple, list):  # a view's specification would check itself if it were asked
            node.meta["spec"] = type(spec)(places.get(id(s), s) for s in spec)
        elif spec is not None:
            node.meta["spec"] = places.get(id(spec), spec)


def _copy(new: Node, old: Node) -> None:
    """Copy the value of `new` to the memory of `old`."""
    value = new.meta["val"]
    graph, clone = new.graph, torch.ops.dim_order_ops._clone_dim_order.out
    memory = graph.call_function(alloc, ((tuple(value.shape), value.dtype),))
    node = graph.call_function(clone, (new,), {"dim_order": list(range(value.dim())), "out": memory})
    node.meta = {**new.meta, "spec": old.meta["spec"]}
