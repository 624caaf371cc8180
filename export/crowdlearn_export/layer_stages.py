"""The stages of one layer, forward and backward, as pure tensor functions.

A stage takes what enters its neurons (sums, or errors on their way back) and gives what leaves them. Arrays
are laid out with the owned neurons first: the weights of an edge are [source neurons, ...], since they belong
to the source neuron's owner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from crowdlearn_device.manifest import PieceShape
from crowdlearn_device.ports import layer_methods
from torch import Tensor

from .graph import NeuronGraph
from .layers import run_edge, run_local
from .stage import Stage, as_stage

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


def layer_stages(graph: NeuronGraph, index: int, shape: PieceShape) -> tuple[Stage, Stage]:
    """Forward and backward of a layer for pieces of this shape."""
    layer, edges = graph.layers[index], graph.outgoing(index)
    ahead, back = layer_methods(shape, index)
    first = 1 if index == 0 else 0  # nobody asks for the error of the data
    differentiated = 1 + sum(port.role == "parameter" for port in ahead.inputs)
    taken = len(ahead.inputs)

    def run(inputs: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The products on each edge, and the new buffers."""
        given = {port.name or port.role: x for port, x in zip(ahead.inputs, inputs, strict=True)}
        x, buffers = run_local(layer, given["sum"], given, given.get("mask"))
        return [run_edge(edge, x, given.get(f"{edge.module}.weight")) for edge in edges], buffers

    def forward(*given: Tensor) -> tuple[Tensor, ...]:
        products, buffers = run(given)
        return (*products, *buffers)

    def backward(*given: Tensor) -> tuple[Tensor, ...]:
        def products(*values: Tensor) -> tuple[Tensor, ...]:
            return tuple(run((*given[:first], *values, *given[differentiated:taken]))[0])

        _, vjp = _vjp(products, *given[first:differentiated])
        return tuple(vjp(tuple(given[taken:])))

    def reference(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in given[:differentiated]]
        products, _ = run((*leaves, *given[differentiated:taken]))
        return torch.autograd.grad(products, leaves[first:], given[taken:])

    return as_stage(ahead, forward, forward), as_stage(back, backward, reference)
