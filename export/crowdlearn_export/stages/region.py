"""The region of a piece that turns round at the loss: the last layers that it owns whole, forward, loss and
backward in one method. Where that is the whole network, a training step is one method too, with the
optimizer's step inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from crowdlearn_device.optimizers.base import RATE, Optimizer
from crowdlearn_device.optimizers.registry import described
from crowdlearn_device.program.manifest import STATE, MethodSpec, PieceShape
from crowdlearn_device.program.ports import loss_method, train_step_method
from torch import Tensor

from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.layers import run_layers
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss

from .optimizers import reference_step
from .stage import Stage, as_stage, kind_of

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


class LossRegion:
    """The layers from `first` to the last one, all owned whole by one piece of this shape."""

    def __init__(self, graph: NeuronGraph, first: int, shape: PieceShape, loss: Loss) -> None:
        self._graph, self._shape, self._loss = graph, shape, loss
        self._layers = graph.layers[first:]
        self._spec = loss_method(shape, range(first, len(graph.layers)))
        self._entering = self._spec.inputs[:-2]
        self._trained = sum(port.role == "parameter" for port in self._spec.inputs)

    def gradients(self) -> Stage:
        """Return what a micro-batch gives: loss, logits, errors of the sums that entered, gradients, new
        buffers.
        """
        sums = sum(port.role == "sum" for port in self._spec.inputs)
        first = sums - sum(port.role == "error" for port in self._spec.outputs)
        leaves = sums + self._trained

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            *rest, labels, scale = given[leaves:]

            def loss_of(*values: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
                logits, buffers = self._forward((*given[:first], *values, *rest))
                return self._loss.value(logits, labels, scale), (logits, buffers)

            loss, vjp, (logits, buffers) = _vjp(loss_of, *given[first:leaves], has_aux=True)
            return (loss, logits, *vjp(torch.ones_like(loss)), *buffers)

        def reference(*given: Tensor) -> tuple[Tensor, ...]:
            values = [x.detach().requires_grad_() for x in given[first:leaves]]
            *rest, labels, scale = given[leaves:]
            logits, buffers = self._forward((*given[:first], *values, *rest))
            loss = self._loss.reference(logits, labels) * scale
            slopes = torch.autograd.grad(loss, values, materialize_grads=True)
            return (loss.detach(), logits.detach(), *slopes, *(b.detach() for b in buffers))

        return as_stage(self._spec, function, reference, self._kind(self._spec))

    def train_step(self, optimizer: Optimizer) -> Stage:
        """Return a whole mini-batch of the whole network: loss and logits, and new weights, slots and buffers
        over the old ones. The learning rate is an input, and so is all that the optimizer makes of it.
        """
        spec = train_step_method(self._shape, optimizer)
        state = [i for i, port in enumerate(spec.inputs) if port.role in STATE]
        weights = 1 + self._trained
        slots = weights + self._trained * len(optimizer.slots)
        numbers = len(spec.inputs) - len(optimizer.numbers)

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            *rest, labels, scale = given[slots:numbers]
            named = dict(zip(optimizer.numbers, given[numbers:], strict=True))

            def loss_of(*values: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
                logits, buffers = self._forward((given[0], *values, *rest))
                return self._loss.value(logits, labels, scale), (logits, buffers)

            loss, vjp, (logits, buffers) = _vjp(loss_of, *given[1:weights], has_aux=True)
            if optimizer.is_linear:  # the rate can scale one number instead of every gradient
                moved = zip(given[1:weights], vjp(named[RATE]), strict=True)
                new = [optimizer.scaled_step(weight, slope, named) for weight, slope in moved]
                return (loss, logits, *new, *buffers)
            steps = [
                optimizer.step(weight, slope, given[weights + i : slots : self._trained], named)
                for i, (weight, slope) in enumerate(
                    zip(given[1:weights], vjp(torch.ones_like(loss)), strict=True)
                )
            ]
            return (loss, logits, *(array for kind in zip(*steps, strict=True) for array in kind), *buffers)

        def reference(*given: Tensor) -> tuple[Tensor, ...]:
            values = [x.detach().clone().requires_grad_() for x in given[1:weights]]
            *rest, labels, scale = given[slots:numbers]
            logits, buffers = self._forward((given[0], *values, *rest))
            loss = self._loss.reference(logits, labels) * scale
            slopes = torch.autograd.grad(loss, values, materialize_grads=True)
            new = reference_step(optimizer, values, slopes, given[weights:slots], given[numbers:])
            return tuple(x.detach() for x in (loss, logits, *new, *buffers))

        updates = {len(spec.outputs) + i: position for i, position in enumerate(state)}
        return as_stage(spec, function, reference, self._kind(spec, optimizer), updates)

    def _kind(self, spec: MethodSpec, optimizer: Optimizer | None = None) -> str:
        graph = {**asdict(self._graph), "name": ""}
        loss = [self._loss.kind, asdict(self._loss)]
        return kind_of(
            {
                "graph": graph,
                "layers": len(self._layers),
                "spec": spec,
                "optimizer": optimizer and described(optimizer),
                "loss": loss,
            }
        )

    def _forward(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Compute from [sums, parameters, buffers, frozen, masks] the logits and the new buffers."""
        ports = zip(self._entering, given, strict=True)
        named = {(port.role, port.layer, port.name): x for port, x in ports}
        sums = {layer: x for (role, layer, _), x in named.items() if role == "sum"}
        masks = {layer: x for (role, layer, _), x in named.items() if role == "mask"}
        held = HELD[self._graph.frozen_as]
        arrays = held.widened({name: x for (_, _, name), x in named.items() if name})
        return run_layers(self._graph, self._layers, sums, arrays, masks)
