"""The region that turns round at the loss in a step of DP-SGD: gradients of samples are clipped before they
are added, layer by layer on the one way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from crowdlearn_device.program.manifest import PieceShape
from crowdlearn_device.program.ports import loss_method
from torch import Tensor

from crowdlearn_export.graph.held.registry import HELD
from crowdlearn_export.graph.layers import run_edge, run_local
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.losses.base import Loss

from .ghosts import Ghost, added, by_autograd, clipped, ghosts_of, returned_on
from .region import LossRegion
from .stage import Stage, as_stage

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


class ClippedRegion(LossRegion):
    """The same layers, in steps of DP-SGD; all that learns there has ghosts (ghosts.py)."""

    def __init__(self, graph: NeuronGraph, first: int, shape: PieceShape, loss: Loss) -> None:
        super().__init__(graph, first, shape, loss)
        self._plain = self._spec
        self._spec = loss_method(shape, range(first, len(graph.layers)), squares=True)
        self._ports = self._spec.inputs[: len(self._plain.inputs)]

    def gradients(self) -> Stage:
        """Return what a micro-batch gives: loss, logits, errors of the sums that entered, the sum of clipped
        gradients, and the squared norm of each sample's.
        """
        if self._spec == self._plain:  # nothing learns here
            return super().gradients()
        return as_stage(self._spec, self._function, self._reference, self._kind(self._spec))

    def _function(self, *given: Tensor) -> tuple[Tensor, ...]:
        *rest, factor, clip = given
        ports = list(zip(self._ports, rest, strict=True))
        arrays = HELD[self._graph.frozen_as].widened({port.name: x for port, x in ports if port.name})
        sums = {port.layer: x for port, x in ports if port.role == "sum"}
        masks = {port.layer: x for port, x in ports if port.role == "mask"}
        outputs, backs = dict[int, Tensor](), dict[int, Any]()
        for layer in self._layers:
            local = partial(_local, layer, arrays, masks.get(layer.index))
            x, backs[layer.index] = _vjp(local, sums[layer.index])
            outputs[layer.index] = x
            for edge in self._graph.outgoing(layer.index):
                product = run_edge(edge, x, arrays.get(f"{edge.module}.weight"))
                known = sums.get(edge.target)
                sums[edge.target] = product if known is None else known + product
        scores = x.reshape(x.shape[0], -1)
        labels, scale = rest[-2:]
        loss, back = _vjp(lambda scores: self._loss.value(scores, labels, scale), scores)
        (slopes,) = back(torch.ones_like(loss))
        errors, ghosts = self._backward(slopes.reshape(x.shape), outputs, backs, arrays)
        squared = added([ghost.squared for ghost in ghosts.values()])
        factors = factor * clipped(squared, clip)
        found = [
            errors[port.layer] if port.role == "error" else ghosts[port.name].summed(factors)
            for port in self._spec.outputs[2:-1]
        ]
        return (loss, scores, *found, squared)

    def _backward(
        self, slopes: Tensor, outputs: dict[int, Tensor], backs: dict[int, Any], arrays: dict[str, Tensor]
    ) -> tuple[dict[int, Tensor], dict[str, Ghost]]:
        """Return the errors of sums [B, neurons, ...] by layer, and the ghosts of arrays by name, from the
        slopes of scores.
        """
        errors: dict[int, Tensor] = {}
        ghosts: dict[str, Ghost] = {}
        for layer in reversed(self._layers):
            edges, x = self._graph.outgoing(layer.index), outputs[layer.index]
            of_edges = [errors[edge.target] for edge in edges]
            returned = [returned_on(e, x, arrays, error) for e, error in zip(edges, of_edges, strict=True)]
            (errors[layer.index],) = backs[layer.index](added(returned) if returned else slopes)
            names = [p.name for p in self._ports if p.role == "parameter" and p.layer == layer.index]
            found = ghosts_of(names, edges, x, of_edges, errors[layer.index], arrays)
            ghosts |= zip(names, found, strict=True)
        return errors, ghosts

    def _reference(self, *given: Tensor) -> tuple[Tensor, ...]:
        *rest, labels, scale, factor, clip = given
        sums = sum(port.role == "sum" for port in self._ports)
        leaves = sums + self._trained

        def loss_of(weights: Sequence[Tensor], others: Sequence[Tensor], of: Tensor) -> tuple[Tensor, Tensor]:
            scores, _ = self._forward((*others[:sums], *weights, *others[sums:]))
            return self._loss.reference(scores, of) * scale, scores

        weights, others = rest[sums:leaves], [x.detach() for x in (*rest[:sums], *rest[leaves:])]
        asked = {port.layer for port in self._spec.outputs if port.role == "error"}
        entered = [
            x.requires_grad_()
            for port, x in zip(self._ports, others[:sums], strict=False)
            if port.layer in asked
        ]
        loss, scores = loss_of(weights, others, labels)
        errors = torch.autograd.grad(loss, entered) if entered else ()
        ports = (*self._ports[:sums], *self._ports[leaves:-2])
        batched = [port.shape[:1] == ("B",) for port in ports]

        def of_one(weights: Sequence[Tensor], label: Tensor, *of_sample: Tensor) -> Tensor:
            drawn = iter(of_sample)
            given = [next(drawn) if own else x for own, x in zip(batched, others, strict=True)]
            return loss_of(weights, given, label)[0]

        of_samples = [x.detach() for own, x in zip(batched, others, strict=True) if own]
        summed, squared = by_autograd(
            of_one, weights, (labels, *of_samples), lambda squared, own: own * clipped(squared, clip), factor
        )
        return (loss.detach(), scores.detach(), *errors, *summed, squared)


def _local(layer: Any, arrays: dict[str, Tensor], mask: Tensor | None, sums: Tensor) -> Tensor:
    return run_local(layer, sums, arrays, mask)[0]
