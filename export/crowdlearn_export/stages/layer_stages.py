"""The stages of one layer, forward and backward, as pure tensor functions.

A stage takes what enters its neurons (sums, or errors on their way back) and gives what leaves them. Arrays
are laid out with the owned neurons first: the weights of an edge are [source neurons, ...], since they belong
to the source neuron's owner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from crowdlearn_device.program.manifest import MethodSpec, PieceShape, Port
from crowdlearn_device.program.ports import layer_methods
from torch import Tensor

from crowdlearn_export.graph.layers import run_edge, run_local
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from .stage import Stage, as_stage, kind_of, numbered

Run = Callable[[Sequence[Tensor], Sequence[Port]], tuple[list[Tensor], list[Tensor]]]

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


def layer_stages(graph: NeuronGraph, index: int, shape: PieceShape) -> list[Stage]:
    """Forward and, where errors come back to it, backward of a layer for pieces of this shape."""
    layer = graph.layers[index]
    ahead, *back = layer_methods(shape, index)

    def run(inputs: Sequence[Tensor], ports: Sequence[Port]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the products that are sums, or have errors, at these ports; and the new buffers.

        Each is float32 [B, neurons, ...].
        """
        given = {port.name or port.role: x for port, x in zip(ahead.inputs, inputs, strict=True)}
        x, buffers = run_local(layer, given["sum"], given, given.get("mask"))
        edges = [graph.edges[port.edge] for port in ports if port.edge >= 0]
        return [run_edge(edge, x, given.get(f"{edge.module}.weight")) for edge in edges], buffers

    def forward(*given: Tensor) -> tuple[Tensor, ...]:
        products, buffers = run(given, ahead.outputs)
        return (*products, *buffers)

    stages = [as_stage(ahead, forward, forward, _kind(graph, index, ahead))]
    return stages + [_backward(method, run, _kind(graph, index, method)) for method in back]


def _kind(graph: NeuronGraph, index: int, method: MethodSpec) -> str:
    """Return the same for the methods of layers that differ in nothing but their names and places."""
    layer, edges = graph.layers[index], graph.outgoing(index)
    modules = list(dict.fromkeys([*(op.module for op in layer.ops), *(edge.module for edge in edges)]))
    places = [i for i, edge in enumerate(graph.edges) if edge.source == index]
    return kind_of(
        {
            "ops": [(op.kind, dict(op.attributes), modules.index(op.module)) for op in layer.ops],
            "edges": [(edge.kind, dict(edge.attributes), modules.index(edge.module)) for edge in edges],
            "inputs": numbered(method.inputs, modules, places),
            "outputs": numbered(method.outputs, modules, places),
        }
    )


def _backward(method: MethodSpec, run: Run, kind: str) -> Stage:
    """Make the stage that goes backward, by the vector-Jacobian product of the forward one: in the
    parameters, and in the sums whose errors are used.
    """
    first = 0 if any(port.role == "error" for port in method.outputs) else 1
    differentiated = 1 + sum(port.role == "parameter" for port in method.inputs)
    taken = sum(port.role != "error" for port in method.inputs)

    def products(given: Sequence[Tensor], *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(run((*given[:first], *values, *given[differentiated:taken]), method.inputs)[0])

    def backward(*given: Tensor) -> tuple[Tensor, ...]:
        _, vjp = _vjp(partial(products, given), *given[first:differentiated])
        return tuple(vjp(tuple(given[taken:])))

    def reference(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in given[first:differentiated]]
        return torch.autograd.grad(products(given, *leaves), leaves, given[taken:], materialize_grads=True)

    return as_stage(method, backward, reference, kind)
