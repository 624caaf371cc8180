"""Compiling in less time changes neither programs nor what PyTorch does afterwards."""

import gc
import inspect

import pytest
import torch
from crowdlearn_export.compiler.compile import Method, compile_lowered, lower_methods
from crowdlearn_export.lowering import shortcuts as thrift
from crowdlearn_export.lowering.shortcuts import code_when_called, rare_collections
from torch.fx import GraphModule, symbolic_trace


def two_values(x: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.relu(x @ weight), (1 - x * x.new_ones(x.shape)).sum(0)


def test_programs_are_the_same_bytes() -> None:
    method = Method("m", two_values, (torch.randn(3, 4), torch.randn(4, 5)), (0,))
    plainly = inspect.unwrap(compile_lowered)
    programs = [
        compiled([method], lower_methods([method]), {"m": "xnnpack"}, 8).pte
        for compiled in (compile_lowered, plainly)
    ]
    assert plainly is not compile_lowered
    assert programs[0] == programs[1]


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
