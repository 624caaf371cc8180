"""The region of a piece that turns round at the loss: the last layers that it owns whole, forward, loss and
backward in one method. Where that is the whole network, a training step is one method too, with SGD inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from crowdlearn_device.manifest import LOSS, TRAIN_STEP, ArraySpec, Port
from torch import Tensor

from .graph import NeuronGraph
from .layers import run_layers
from .stages import Optimizer, Stage, array_port, as_stage, drops, mask_port

_vjp: Any = torch.func.vjp  # its annotation leaves out has_aux


class LossRegion:
    """The layers from `first` to the last one, all owned whole by one piece."""

    def __init__(self, graph: NeuronGraph, first: int, arrays: Sequence[ArraySpec]) -> None:
        self.graph, self.first = graph, first
        self.layers = graph.layers[first:]
        mine = [array for array in arrays if array.layer >= first]
        neurons = [layer.neurons for layer in graph.layers]
        entered = {edge.target for edge in graph.edges if edge.source < first} | (
            {0} if first == 0 else set()
        )
        self.sums = [
            Port("sum", ("B", layer.neurons, *layer.sum_shape), layer=layer.index)
            for layer in self.layers
            if layer.index in entered
        ]
        self.trained = [array_port("parameter", a, neurons[a.layer]) for a in mine if a.trained]
        self.buffers = [array_port("buffer", a, neurons[a.layer]) for a in mine if not a.trained]
        self.masks = [mask_port(layer, layer.neurons) for layer in self.layers if drops(layer)]
        self.labels = Port("labels", ("B",), dtype="int64")
        self.scale = Port("scale", ())
        self.logits = Port("logits", ("B", self.layers[-1].neurons))

    def gradients(self) -> Stage:
        """What a micro-batch gives: loss, logits, errors of the sums that entered, gradients, new buffers."""
        first = 1 if self.first == 0 else 0  # nobody asks for the error of the data
        inputs = (*self.sums, *self.trained, *self.buffers, *self.masks, self.labels, self.scale)
        leaves = len(self.sums) + len(self.trained)
        outputs = (
            Port("loss", ()),
            self.logits,
            *(replace(port, role="error") for port in self.sums[first:]),
            *(replace(port, role="gradient") for port in self.trained),
            *self.buffers,
        )

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            rest = given[leaves:]

            def loss_of(*values: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
                logits, buffers = self._forward((*given[:first], *values, *rest[:-2]))
                return cross_entropy(logits, *rest[-2:]), (logits, buffers)

            loss, vjp, (logits, buffers) = _vjp(loss_of, *given[first:leaves], has_aux=True)
            return (loss, logits, *vjp(torch.ones_like(loss)), *buffers)

        def reference(*given: Tensor) -> tuple[Tensor, ...]:
            values = [x.detach().requires_grad_() for x in given[:leaves]]
            logits, buffers = self._forward((*values, *given[leaves:-2]))
            loss = F.cross_entropy(logits, given[-2], reduction="sum") * given[-1]
            slopes = torch.autograd.grad(loss, values[first:])
            return (loss.detach(), logits.detach(), *slopes, *(b.detach() for b in buffers))

        return as_stage(LOSS, function, inputs, outputs, reference)

    def train_step(self, optimizer: Optimizer) -> Stage:
        """A whole mini-batch of the whole network: loss and logits, and new weights, momenta and buffers over
        the old ones. The learning rate is an input.
        """
        momenta = [replace(port, role="momentum") for port in self.trained] if optimizer.momentum else []
        state = (*self.trained, *momenta, *self.buffers)
        rate = Port("rate", ())
        inputs = (*self.sums, *state, *self.masks, self.labels, self.scale, rate)
        outputs = (Port("loss", ()), self.logits, *state)
        weights, velocities = 1 + len(self.trained), 1 + len(self.trained) + len(momenta)

        def function(*given: Tensor) -> tuple[Tensor, ...]:
            *rest, labels, scale, rate = given[velocities:]

            def loss_of(*values: Tensor) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
                logits, buffers = self._forward((given[0], *values, *rest))
                return cross_entropy(logits, labels, scale), (logits, buffers)

            loss, vjp, (logits, buffers) = _vjp(loss_of, *given[1:weights], has_aux=True)
            # Without momentum the rate can scale one number instead of every gradient.
            slopes = vjp(torch.ones_like(loss) if momenta else rate)
            new = _descended(optimizer, given[1:weights], slopes, given[weights:velocities], rate)
            return (loss, logits, *new, *buffers)

        def reference(*given: Tensor) -> tuple[Tensor, ...]:
            values = [x.detach().clone().requires_grad_() for x in given[1:weights]]
            *rest, labels, scale, rate = given[velocities:]
            logits, buffers = self._forward((given[0], *values, *rest))
            loss = F.cross_entropy(logits, labels, reduction="sum") * scale
            sgd = torch.optim.SGD(
                values, float(rate), momentum=optimizer.momentum, weight_decay=optimizer.weight_decay
            )
            for value, velocity in zip(values, given[weights:velocities], strict=False):
                sgd.state[value]["momentum_buffer"] = velocity.clone()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            moved = [sgd.state[value]["momentum_buffer"] for value in values] if momenta else []
            return tuple(x.detach() for x in (loss, logits, *values, *moved, *buffers))

        updates = {2 + i: 1 + i for i in range(len(state))}
        return as_stage(TRAIN_STEP, function, inputs, outputs, reference, updates)

    def _forward(self, given: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """From [sums, parameters, buffers, masks] to the logits and the new buffers."""
        ports = (*self.sums, *self.trained, *self.buffers, *self.masks)
        named = dict(zip(ports, given, strict=True))
        sums = {port.layer: named[port] for port in self.sums}
        arrays = {port.name: named[port] for port in (*self.trained, *self.buffers)}
        masks = {port.layer: named[port] for port in self.masks}
        return run_layers(self.graph, self.layers, sums, arrays, masks)


def cross_entropy(logits: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """The cross-entropy of integer labels, summed and scaled."""
    hot = (labels.unsqueeze(1) == torch.arange(logits.shape[1])).to(logits.dtype)
    shifted = logits - logits.amax(1, keepdim=True)
    return ((shifted.exp().sum(1, keepdim=True).log() - shifted) * hot).sum() * scale


def _descended(
    optimizer: Optimizer,
    weights: Sequence[Tensor],
    slopes: Sequence[Tensor],
    velocities: Sequence[Tensor],
    rate: Tensor,
) -> list[Tensor]:
    """New weights, then new velocities; without velocities the slopes hold the rate already."""
    if not velocities:
        decay = 1 - rate * optimizer.weight_decay
        kept = [w * decay for w in weights] if optimizer.weight_decay else weights
        return [w - slope for w, slope in zip(kept, slopes, strict=True)]
    if optimizer.weight_decay:
        slopes = [slope + w * optimizer.weight_decay for w, slope in zip(weights, slopes, strict=True)]
    moved = [v * optimizer.momentum + slope for v, slope in zip(velocities, slopes, strict=True)]
    return [*(w - rate * v for w, v in zip(weights, moved, strict=True)), *moved]
