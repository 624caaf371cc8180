"""What gradients need is computed again where that takes less memory, and is the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_device.program.manifest import Backend
from crowdlearn_export.compiler.compile import compile_lowered, compile_program, lower_methods
from crowdlearn_export.compiler.method import Method
from crowdlearn_export.graph.memory_curves import MemoryUse
from crowdlearn_export.lowering.passes.recompute import recompute
from torch.fx import Graph, GraphModule
from torch.nn import functional as F

from .reference import assert_close, exact, with_gradients

aten = torch.ops.aten
USES: tuple[MemoryUse, ...] = ("least", "balanced", "fastest")
GATHER, PRODUCT = aten.index_select.default, aten.mm.default


def network() -> tuple[GraphModule, dict[str, int]]:
    """A map that is kept, its activation by four operations, columns gathered from that, their product, and
    what reads all of it behind that again; and the bytes of each.
    """
    graph = Graph()
    x, table = graph.placeholder("x"), graph.placeholder("table")
    maps = graph.create_node("call_function", PRODUCT, (x, x), name="maps")
    active = maps
    for name, target in {"a": aten.neg, "b": aten.abs, "c": aten.neg, "active": aten.relu}.items():
        active = graph.create_node("call_function", target.default, (active,), name=name)
    columns = graph.create_node("call_function", GATHER, (active, 1, table), name="columns")
    flat = graph.create_node("call_function", aten.view.default, (columns, [-1, 9]), name="flat")
    product = graph.create_node("call_function", PRODUCT, (flat, x), name="product")
    loss = graph.create_node("call_function", PRODUCT, (product, x), name="loss")
    kernel = graph.create_node("call_function", PRODUCT, (flat, loss), name="kernel")
    slope = graph.create_node("call_function", aten.mul.Tensor, (active, maps), name="slope")
    graph.output((kernel, slope))
    sizes = dict.fromkeys(("maps", "a", "b", "c", "active", "product"), 10)
    sizes |= {"columns": 90, "flat": 90, "loss": 40}
    return GraphModule({}, graph), sizes


@pytest.mark.parametrize(
    ("memory", "again"), [("fastest", []), ("balanced", [GATHER]), ("least", [aten.relu.default, GATHER])]
)
def test_what_is_read_behind_the_moment_of_most_memory_is_made_again(memory, again):
    module, sizes = network()
    recompute(module, lambda node: sizes.get(node.name, 0), memory)
    order = [node for node in module.graph.nodes if node.op == "call_function"]
    behind = order[[node.name for node in order].index("loss") + 1 :]
    assert [node.target for node in behind if node.target in (GATHER, aten.relu.default)] == again
    read = next(node for node in order if node.name == "kernel").args[0]
    assert (read.name == "flat") == (not again)
    module.graph.lint()


@pytest.mark.parametrize(("channels", "memory"), [(15, "balanced"), (16, "balanced"), (15, "least")])
def test_short_rows_are_gathered_again_for_the_least_memory_alone(channels, memory):
    module, sizes = network()
    nodes = {node.name: node for node in module.graph.nodes}
    nodes["columns"].meta["val"] = torch.empty(3, 27, channels)
    recompute(module, lambda node: sizes.get(node.name, 0), memory)
    assert (nodes["kernel"].args[0] is nodes["flat"]) == (channels == 15 and memory == "balanced")


def blocks(x, first, second, third, scale):
    """Two blocks with a shortcut, normalised over the batch."""
    for kernel in (first, second):
        normal = F.batch_norm(F.conv2d(x, kernel, padding=1), None, None, scale, None, training=True)
        x = x + F.relu(normal)
    return F.relu6(F.conv2d(F.relu(x), third, padding=1, groups=third.shape[0])).mean((2, 3))


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
def test_less_memory_gives_the_same_gradients(backend: Backend):
    torch.manual_seed(0)
    kernels = [torch.randn(8, 8, 3, 3) * 0.2, torch.randn(8, 8, 3, 3) * 0.2, torch.randn(8, 1, 3, 3)]
    given = [torch.randn(6, 8, 8, 8), *kernels, torch.rand(8) + 0.5]
    method = Method("joint", with_gradients(blocks, given), tuple(given), (0,))
    lowered = lower_methods([method])
    arenas = {}
    for memory in USES:
        program = compile_lowered([method], lowered, {"joint": backend}, 6, memory)
        arenas[memory] = program.arena_bytes
        executor = ExecuTorchExecutor(program.pte)
        for batch in (6, 3):
            part = [given[0][:batch], *given[1:]]
            for _ in range(2):
                found = executor.run("joint", [np.ascontiguousarray(t.numpy()) for t in part])
                assert_close([torch.from_numpy(v) for v in found], exact(blocks, part))
    assert arenas["least"] <= arenas["balanced"] < arenas["fastest"]


@pytest.mark.parametrize("memory", USES)
def test_parts_that_wait_for_each_other_are_not_made(memory):
    """Each of two sums reads one map as it is and the other one turned by an operation between the parts."""

    def crossed(first, second, large):
        total = torch.tanh(large).sum(1)
        a, b = torch.tanh(first), torch.tanh(second)
        turned = [torch.index_select(x, 1, torch.arange(1023, -1, -1)) for x in (b, a)]
        return total, a + turned[0], b + turned[1]

    given = [torch.randn(8, 1024), torch.randn(8, 1024), torch.randn(8, 20_000)]
    method = Method("crossed", crossed, tuple(given), (0, 1, 2))
    program = compile_program([method], max_batch=8, backend="xnnpack", memory=memory)
    found = ExecuTorchExecutor(program.pte).run("crossed", [x.numpy() for x in given])
    assert_close([torch.from_numpy(x) for x in found], crossed(*(x.double() for x in given)))
