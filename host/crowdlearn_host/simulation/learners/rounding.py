"""What rounding on the wire does to training, *emulated*: what a piece sends another takes on the wire's
precision, and what stays with its owner does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.privacy.masked import LEAST_SENDERS
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from numpy.typing import NDArray
from torch import Tensor, nn

from crowdlearn_host.methods.index_space import piece_of_neuron
from crowdlearn_host.planner.plan import Plan

Wire = Literal["float32", "float16", "int8"]
BYTES = {"float32": 4, "float16": 2, "int8": 1}
STAYS = -1


@dataclass(frozen=True)
class Crossing:
    """The messages in which the sums of one linear map travel.

    `sources[k]` are the inputs of the k-th piece that has some; `message[k, t]` numbers the message that
    takes its part of output t away, STAYS where both ends are the piece's own. `shared[t]` tells whether
    several other pieces send sums for output t.
    """

    module: str
    sources: tuple[NDArray[np.int64], ...]
    message: NDArray[np.int64]
    shared: NDArray[np.bool_]


def crossings(graph: NeuronGraph, plan: Plan) -> tuple[Crossing, ...]:
    """Return every linear map of which something travels. Additions (identity edges) have no module and are
    left out.
    """
    found = []
    count = len(plan.pieces)
    for edge in graph.edges:
        if edge.kind == "identity":
            continue
        owner, target = (piece_of_neuron(graph, plan, layer) for layer in (edge.source, edge.target))
        if edge.kind == "depthwise":
            sources = [np.arange(len(owner))]
            message = np.where(owner == target, STAYS, owner * count + target)[None]
        else:
            floats = graph.layers[edge.source].output_floats if edge.kind == "dense" else 1
            pieces = np.unique(owner)
            sources = [np.flatnonzero(np.repeat(owner, floats) == k) for k in pieces]
            message = np.stack([np.where(target == k, STAYS, k * count + target) for k in pieces])
        if (message != STAYS).any():
            senders = (message != STAYS).sum(0)
            shared = (senders >= LEAST_SENDERS) & (edge.kind != "depthwise")
            found.append(Crossing(edge.module, tuple(sources), message.astype(np.int64), shared))
    return tuple(found)


def round_sums(
    model: nn.Module, wire: Wire, found: tuple[Crossing, ...], noise: torch.Generator, fraction: int = 0
) -> None:
    """Make the linear maps of `model` add up, in training, what pieces would have sent each other.

    Sums that would travel masked have `fraction` binary places; with 0 none do.
    """
    if wire == "float32" and not fraction:
        return
    for crossing in found:
        module = model.get_submodule(crossing.module)
        parts = _Parts(crossing, wire, noise, fraction)
        module.forward = partial(_forward, model, module, module.forward, parts)


def _forward(
    model: nn.Module, module: nn.Module, whole: Callable[[Tensor], Tensor], parts: _Parts, x: Tensor
) -> Tensor:
    # A frozen module may rest in evaluation mode while the model trains.
    return parts.sum(module, x) if model.training else whole(x)


class _Parts:
    """The partial sums of one linear map: [pieces, B, outputs, ...]."""

    def __init__(self, crossing: Crossing, wire: Wire, noise: torch.Generator, fraction: int = 0) -> None:
        self.wire, self.noise, self.fraction = wire, noise, fraction
        self._masked = torch.from_numpy(crossing.shared & bool(fraction))
        self._sizes = [len(own) for own in crossing.sources]
        order = np.concatenate(crossing.sources)
        in_order = bool((order == np.arange(len(order))).all())
        self._order = None if in_order else torch.from_numpy(order)
        self.stays = torch.from_numpy(crossing.message == STAYS)
        self.message = torch.from_numpy(np.where(crossing.message == STAYS, 0, crossing.message))
        self.messages = int(crossing.message.max()) + 1

    def sum(self, module: nn.Module, x: Tensor) -> Tensor:
        weight, bias = module.weight, module.bias
        assert isinstance(weight, Tensor)
        product = F.linear if isinstance(module, nn.Linear) else partial(_convolved, module)
        if len(self._sizes) == 1:
            partial_sums = product(x, weight).unsqueeze(0)
        else:
            parts = zip(self._split(x), self._split(weight), strict=True)
            partial_sums = torch.stack([product(*part) for part in parts])
        sums = _Crossed.apply(partial_sums, self).sum(0)  # type: ignore[no-untyped-call]
        if isinstance(bias, Tensor):
            sums = sums + bias.reshape(1, -1, *(1 for _ in sums.shape[2:]))
        return sums

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        if self._order is not None:
            values = values.index_select(1, self._order)
        return torch.split(values, self._sizes, 1)

    def summed(self, values: Tensor) -> Tensor:
        """Return sums as they arrive, float32 [sources, B, targets, ...]: masked ones in fixed point."""
        crossed = self.rounded(values)
        if not self._masked.any():
            return crossed
        shape = (1, 1, -1, *(1 for _ in values.shape[3:]))
        scale = float(1 << self.fraction)
        exact = torch.where(
            self.stays.reshape(len(values), 1, *shape[2:]), values, (values * scale).round() / scale
        )
        return torch.where(self._masked.reshape(shape), exact, crossed)

    def rounded(self, values: Tensor) -> Tensor:
        """Round float16 to nearest; int8 in steps of a message's largest magnitude / 127, up or down at
        random.

        Values are float32 [sources, B, targets, ...].
        """
        if self.wire == "float32":
            return values
        ones = (1 for _ in values.shape[3:])
        shape = (values.shape[0], 1, values.shape[2], *ones)
        if self.wire == "float16":
            crossed = values.half().float()
        else:
            largest = values.abs().amax([1, *range(3, values.dim())])
            steps = torch.zeros(self.messages).scatter_reduce(
                0, self.message.reshape(-1), largest.masked_fill(self.stays, 0).reshape(-1), "amax"
            )
            step = (steps / 127)[self.message].reshape(shape)
            step = torch.where(step > torch.finfo(step.dtype).tiny, step, 1.0)
            noise = torch.rand(values.shape, generator=self.noise)
            crossed = (values / step + noise).floor().clamp(-127, 127) * step
        return torch.where(self.stays.reshape(shape), values, crossed)


class _Crossed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sums: Tensor, parts: _Parts) -> Tensor:
        ctx.parts = parts
        return parts.summed(sums)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor, None]:
        return ctx.parts.rounded(errors[0]), None


def _convolved(module: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    return module._conv_forward(x, weight, None)
