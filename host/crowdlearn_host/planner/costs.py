"""What neurons cost: compute, memory, state and traffic, from the neuron graph and how training runs.

Memory, per piece: its weights with gradients, the magnitudes that sharing ranks and the optimizer's
momentum; what its neurons keep between forward and backward, for every micro-batch in flight; and for one
micro-batch the sums it sends and the errors it gets, over the whole width of the next layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from typing import Literal

from crowdlearn_export.graph import FLOAT, NeuronGraph

from .bundles import PAIRED, bundles
from .problem import Link

Rotation = Literal["full", "minimal"]


@dataclass(frozen=True)
class WireFormat:
    """Bytes of a float and of everything around the floats of one message."""

    dtype_bytes: int = 4
    overhead_bytes: int = 0

    def message_bytes(self, floats: int) -> int:
        """Bytes on the wire of a message with `floats` floats."""
        return self.dtype_bytes * floats + self.overhead_bytes


@dataclass(frozen=True)
class Training:
    """What training does that planning depends on.

    `rotation` is `full` (every piece moves at a shuffle, as in the paper) or `minimal` (only what must).
    `theta` is the share of weights that a group uploads and downloads each epoch.
    """

    batch: int = 32
    micro_batch: int = 8
    momentum: bool = False
    rotation: Rotation = "minimal"
    theta: float = 0.5
    wire: WireFormat = WireFormat()

    def micro_batches(self, samples: int) -> int:
        """Micro-batches of a pass over `samples` samples."""
        whole, rest = divmod(samples, self.batch)
        return whole * ceil(self.batch / self.micro_batch) + ceil(rest / self.micro_batch)


@dataclass(frozen=True)
class NeuronCosts:
    """One neuron of a bundle: MACs and kept bytes per sample, bytes of its weights in memory and of its
    state.
    """

    macs: float
    memory: float
    state: float


@dataclass(frozen=True)
class Costs:
    """A network in the planner's numbers, per bundle; `presence` is memory that the first neuron of a piece
    brings.
    """

    neurons: tuple[int, ...]
    links: tuple[Link, ...]
    each: tuple[NeuronCosts, ...]
    presence: tuple[float, ...]
    layers: tuple[tuple[int, ...], ...]
    parameters: int

    @property
    def pinned(self) -> frozenset[int]:
        """The bundles of input and output layer."""
        last = max(layer for members in self.layers for layer in members)
        return frozenset(b for b, members in enumerate(self.layers) if 0 in members or last in members)

    @property
    def state(self) -> float:
        """Bytes of the whole network's state."""
        return sum(n * each.state for n, each in zip(self.neurons, self.each, strict=True))


def links(graph: NeuronGraph) -> tuple[Link, ...]:
    """Links between bundles, parallel edges merged."""
    bundle_of = {layer: b for b, members in enumerate(bundles(graph)) for layer in members}
    merged: dict[tuple[int, int], tuple[int, int]] = {}
    for edge in graph.edges:
        if edge.kind not in PAIRED:
            ends = bundle_of[edge.source], bundle_of[edge.target]
            floats, edges = merged.get(ends, (0, 0))
            merged[ends] = floats + graph.layers[edge.target].sum_floats, edges + 1
    return tuple(Link(source, target, *merged[source, target]) for source, target in sorted(merged))


def costs(graph: NeuronGraph, training: Training, groups: int = 1) -> Costs:
    """Price every bundle of the graph; several groups share, and so sum up their gradients."""
    members = bundles(graph)
    ranked = groups > 1 and training.theta < 1
    each = tuple(_neuron(graph, layers, training, ranked) for layers in members)
    presence = tuple(
        2.0
        * FLOAT
        * training.micro_batch
        * sum(
            graph.layers[edge.target].neurons * graph.layers[edge.target].sum_floats
            for layer in layers
            for edge in graph.outgoing(layer)
            if edge.kind not in PAIRED
        )
        for layers in members
    )
    neurons = tuple(graph.layers[layers[0]].neurons for layers in members)
    return Costs(neurons, links(graph), each, presence, members, graph.parameters)


def _neuron(graph: NeuronGraph, layers: tuple[int, ...], training: Training, ranked: bool) -> NeuronCosts:
    """A neuron's products run once forward and, but for the input's, twice backward; its own operations
    likewise.
    """
    macs = kept = parameters = buffers = 0.0
    for index in layers:
        layer = graph.layers[index]
        for edge in graph.outgoing(index):
            macs += (3 if index else 2) * edge.macs / layer.neurons
            parameters += edge.parameters / layer.neurons
        macs += 3 * len(layer.ops) * layer.sum_floats
        kept += layer.sum_floats + layer.output_floats
        parameters += layer.parameters / layer.neurons
        buffers += sum(op.buffers for op in layer.ops) / layer.neurons
    copies = 2 + training.momentum + ranked
    memory = FLOAT * (copies * parameters + buffers + training.batch * kept)
    return NeuronCosts(macs, memory, FLOAT * ((copies - 1) * parameters + buffers))


def sharing_bytes(parameters: int, training: Training, groups: int) -> float:
    """Bytes of sharing per epoch: every group uploads and downloads a share theta, index sets at their
    entropy.
    """
    if groups < 2:
        return 0.0
    theta = training.theta
    entropy = sum(-p * log2(p) for p in (theta, 1 - theta) if p)
    return groups * 2 * parameters * (theta * training.wire.dtype_bytes + entropy / 8)
