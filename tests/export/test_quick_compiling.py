"""Compiling in less time changes neither programs nor what PyTorch does afterwards."""

import gc
import inspect
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from crowdlearn_device.program.executor import ExecuTorchExecutor
from crowdlearn_export.compiler.compile import compile_lowered, lower_methods
from crowdlearn_export.compiler.method import CompiledProgram, Method
from crowdlearn_export.lowering import shortcuts as thrift
from crowdlearn_export.lowering.shortcuts import code_when_called, orders_by_numbers, rare_collections
from executorch.exir import tensor as specs
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.exir.schema import KernelCall
from torch.fx import GraphModule, symbolic_trace


def two_values(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.relu(x @ weight), (1 - x * x.new_ones(x.shape)).sum(0)


@pytest.mark.parametrize("backend", ["portable", "xnnpack"])
def test_programs_are_the_same_but_for_their_order(backend: str) -> None:
    method = Method("m", two_values, (torch.randn(3, 4), torch.randn(4, 5)), (0,))
    plainly = inspect.unwrap(compile_lowered)
    assert plainly is not compile_lowered
    quick, plain = (
        compiled([method], lower_methods([method]), {"m": backend}, 8)
        for compiled in (compile_lowered, plainly)
    )
    assert replace(quick, pte=b"") == replace(plain, pte=b"")
    assert calls(quick) == calls(plain)
    for batch in (1, 8):
        inputs = [torch.randn(batch, 4).numpy(), torch.randn(4, 5).numpy()]
        values = [ExecuTorchExecutor(program.pte).run("m", inputs) for program in (quick, plain)]
        for found, expected in zip(*values, strict=True):
            np.testing.assert_array_equal(found, expected)


def calls(program: CompiledProgram) -> list[str]:
    """Return every call of a program, and the data of its delegates."""
    file = deserialize_pte_binary(program.pte).program
    (plan,) = file.execution_plan
    named = [
        plan.operators[call.op_index].name
        if isinstance(call := each.instr_args, KernelCall)
        else str(type(call))
        for each in plan.chains[0].instructions
    ]
    return sorted([*named, *(str(delegate.data) for delegate in file.backend_delegate_data)])


def test_numbers_that_meet_floats_are_floats() -> None:
    method = Method("m", lambda x: (1 - x, x.long() + 1), (torch.randn(3, 4),), (0,))
    program = compile_lowered([method], lower_methods([method]), {"m": "portable"}, 8)
    assert "dim_order_ops::_to_dim_order_copy.out" in program.operators  # of x, and of no number
    assert calls(program).count("dim_order_ops::_to_dim_order_copy") == 1


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 1, 1, 5), (), (4, 1)])
def test_dimensions_are_ordered_as_executorch_orders_them(shape: tuple[int, ...]) -> None:
    for order in permutations(range(len(shape))):
        stride = torch.empty(shape).permute(order).stride()
        with orders_by_numbers():
            assert specs.dim_order_from_stride(stride) == thrift._order_of_symbols(stride)
    with orders_by_numbers(), pytest.raises(RuntimeError, match="0 in strides"):
        specs.dim_order_from_stride((0, 1))


def test_what_is_lowered_is_not_traced_again_to_decompose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thrift, "_decompose", None)
    method = Method("m", two_values, (torch.randn(3, 4), torch.randn(4, 5)), (0,))
    assert compile_lowered([method], lower_methods([method]), {"m": "portable"}, 8).pte


def test_a_graph_changed_meanwhile_computes_what_it_should_and_has_its_code_once_called() -> None:
    graph = symbolic_trace(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sigmoid()))
    x = torch.randn(5)
    with code_when_called():
        for node in graph.graph.nodes:
            if node.target == "1":
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.recompile()
        assert not graph.code
        assert torch.equal(graph(x), torch.relu(x))
    assert "return" in graph.code
    assert "sigmoid" not in graph.code.lower()


def test_what_belongs_to_the_process_is_as_before_whatever_happens() -> None:
    before = GraphModule.recompile, gc.get_threshold()
    with pytest.raises(ValueError, match="on the way"), rare_collections(), code_when_called():
        assert GraphModule.recompile is not before[0]
        raise ValueError("on the way")
    assert (GraphModule.recompile, gc.get_threshold()) == before


def test_a_process_that_collects_no_garbage_goes_on_so() -> None:
    before = gc.get_threshold()
    gc.set_threshold(0)
    try:
        with rare_collections():
            assert gc.get_threshold()[0] == 0
    finally:
        gc.set_threshold(*before)
