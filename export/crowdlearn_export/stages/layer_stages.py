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

from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.layers import run_edge, run_local
from crowdlearn_export.graph.neuron_graph import NeuronGraph

from .ghosts import added, by_autograd, ghosts_of, returned_on
from .stage import Stage, as_stage, kind_of, numbered

Function = Callable[..., tuple[Tensor, ...]]
Run = Callable[[Sequence[Tensor], Sequence[Port]], tuple[list[Tensor], list[Tensor]]]

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


def layer_stages(graph: NeuronGraph, index: int, shape: PieceShape, *, squares: bool = False) -> list[Stage]:
    """Forward and, where errors come back to it, backward of a layer for pieces of this shape; with the norms
    of samples' gradients if `squares`.
    """
    layer, held = graph.layers[index], HELD[graph.frozen_as]
    ahead, *back = layer_methods(shape, index, squares=squares)

    def run(inputs: Sequence[Tensor], ports: Sequence[Port]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the products that are sums, or have errors, at these ports; and the new buffers.

        Each is float32 [B, neurons, ...].
        """
        given = held.widened({p.name or p.role: x for p, x in zip(ahead.inputs, inputs, strict=True)})
        x, buffers = run_local(layer, given["sum"], given, given.get("mask"))
        edges = [graph.edges[port.edge] for port in ports if port.edge >= 0]
        return [run_edge(edge, x, given.get(f"{edge.module}.weight")) for edge in edges], buffers

    def forward(*given: Tensor) -> tuple[Tensor, ...]:
        products, buffers = run(given, ahead.outputs)
        return (*products, *buffers)

    stages = [as_stage(ahead, forward, forward, _kind(graph, index, ahead))]
    for method in back:
        backward, reference = _backward(method, run)
        if any(port.role == "square" for port in method.outputs):
            backward, reference = _with_squares(graph, index, method, run, backward, reference)
        stages.append(as_stage(method, backward, reference, _kind(graph, index, method)))
    return stages


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


def _with_squares(
    graph: NeuronGraph, index: int, method: MethodSpec, run: Run, backward: Function, reference: Function
) -> tuple[Function, Function]:
    """Return what goes backward, and its reference, with the squared norm of each sample's gradient."""
    names = [port.name for port in method.inputs if port.role == "parameter"]
    taken = sum(port.role != "error" for port in method.inputs)
    edges = [graph.edges[port.edge] for port in method.inputs[taken:]]

    def with_ghosts(*given: Tensor) -> tuple[Tensor, ...]:
        named = {p.name or p.role: x for p, x in zip(method.inputs, given[:taken], strict=False)}
        arrays = HELD[graph.frozen_as].widened(named)
        errors = given[taken:]
        x, back = _vjp(
            lambda sums: run_local(graph.layers[index], sums, arrays, arrays.get("mask"))[0], given[0]
        )
        returned = [returned_on(e, x, arrays, error) for e, error in zip(edges, errors, strict=True)]
        (of_sums,) = back(added(returned))
        ghosts = ghosts_of(names, edges, x, errors, of_sums, arrays)
        return (*backward(*given), added([ghost.squared for ghost in ghosts]))

    def with_norms(*given: Tensor) -> tuple[Tensor, ...]:
        weights, others = given[1 : 1 + len(names)], (given[0], *given[1 + len(names) :])
        ports = (method.inputs[0], *method.inputs[1 + len(names) :])
        of_samples = [x for port, x in zip(ports, others, strict=True) if port.shape[:1] == ("B",)]

        def of_one(weights: Sequence[Tensor], *sample: Tensor) -> Tensor:
            drawn = iter(sample)
            own = [next(drawn) if p.shape[:1] == ("B",) else x for p, x in zip(ports, others, strict=True)]
            rest = own[1 : taken - len(names)]
            products, _ = run((own[0], *weights, *rest), method.inputs)
            errors = own[taken - len(names) :]
            return added([(p * e).sum() for p, e in zip(products, errors, strict=True)])

        ones = torch.ones(len(given[0]), dtype=given[0].dtype)
        _, squared = by_autograd(of_one, weights, of_samples, lambda _, factors: factors, ones)
        return (*reference(*given), squared)

    return with_ghosts, with_norms


def _backward(method: MethodSpec, run: Run) -> tuple[Function, Function]:
    """Return what goes backward, by the vector-Jacobian product of the forward stage: in the parameters, and
    in the sums whose errors are used; and its reference.
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

    return backward, reference
