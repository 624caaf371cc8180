"""Compiling without what PyTorch does for nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from executorch.exir import tensor as specs
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental import proxy_tensor
from torch.fx.graph import _PyTreeCodeGen

ALLOCATIONS = 100_000
"""Objects made between two searches for garbage: compiling makes millions, and keeps most of them."""


ONE_AT_A_TIME = RLock()
"""Held while what belongs to the whole process is changed."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Have garbage collected seldom meanwhile; never, if the process never does."""
    with ONE_AT_A_TIME:
        first, *others = gc.get_threshold()
        gc.set_threshold(first and max(ALLOCATIONS, first), *others)
        try:
            yield
        finally:
            gc.set_threshold(first, *others)


@contextmanager
def code_when_called() -> Iterator[None]:
    """Have graphs write their Python code when they are first called, instead of after every change: most
    never are. Until then `code` is empty and `forward` has no names of arguments, so neither may be read.
    """
    with replaced(GraphModule, "recompile", _recompile_when_called):
        yield


@contextmanager
def decomposed_before() -> Iterator[None]:
    """Leave out the second tracing, which decomposes, of an exported program that has core operators
    alone.
    """
    with replaced(ExportedProgram, "run_decompositions", _decompose_what_is_left):
        yield


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Have traced calls describe their tensors once, by `val`, and not by `tensor_meta` as well."""
    with replaced(proxy_tensor, "_extract_tensor_metadata", lambda _: None):
        yield


@contextmanager
def orders_by_numbers() -> Iterator[None]:
    """Have strides that are numbers sorted as numbers: ExecuTorch makes a class for every tensor."""
    with replaced(specs, "dim_order_from_stride", _order):
        yield


_order_of_symbols: Any = specs.dim_order_from_stride


def _order(stride: tuple[Any, ...]) -> Any:
    if 0 in stride or any(type(step) is not int for step in stride):
        return _order_of_symbols(stride)
    return tuple(sorted(range(len(stride)), key=stride.__getitem__, reverse=True))


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set `owner.name` to `value` meanwhile: PyTorch and ExecuTorch offer no option for it."""
    with ONE_AT_A_TIME:
        before = getattr(owner, name)
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, before)


_decompose: Any = ExportedProgram.run_decompositions


def _decompose_what_is_left(program: Any, table: Any) -> Any:
    nodes = list(program.graph.nodes)
    if any(_is_left(node.target, table) for node in nodes if node.op == "call_function"):
        return _decompose(program, table)
    for node in nodes:
        if node.op == "call_module":  # checks of the example's shapes
            program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _is_left(target: Any, table: Any) -> bool:
    """Return whether decomposing makes something else of a call: where it writes over a tensor, too."""
    if target is torch.ops.aten.sym_size.int:
        return False
    return target in table or (isinstance(target, OpOverload) and target._schema.is_mutable)


_write_code: Any = GraphModule.recompile


def _recompile_when_called(module: Any) -> None:
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    module._code = ""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        _write_code(self)
        return self.forward(*args, **kwargs)

    type(module).forward = forward  # every graph module has a class of its own
