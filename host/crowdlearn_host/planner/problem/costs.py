"""What neurons cost: compute, memory, state and traffic, from the neuron graph and how training runs."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import Literal

import numpy as np
from crowdlearn_device.optimizers.registry import Kind, typical
from crowdlearn_export.graph.memory_curves import Footprint, MemoryUse
from crowdlearn_export.graph.neuron_graph import FLOAT, FrozenAs, NeuronGraph
from crowdlearn_export.graph.shape import array_specs, as_modelled

from .bundles import PAIRED, bundles
from .leaks import Leaks
from .memory import Memory, bundle_memory, tails
from .problem import Budget, BundleLink
from .rotations import DEFAULT_ROTATION, Rotation
from .state_bytes import StateOverhead, state_overhead


@dataclass(frozen=True)
class WireFormat:
    """Bytes of a float and of everything around the floats of one message."""

    dtype_bytes: int = 4
    overhead_bytes: int = 0

    def message_bytes(self, floats: int) -> int:
        """Return bytes on the wire of a message with `floats` floats."""
        return self.dtype_bytes * floats + self.overhead_bytes


@dataclass(frozen=True)
class Training:
    """The settings of training on which planning depends.

    `rotation` is `full` (every piece moves at a shuffle, as in the paper) or `minimal` (only what must).
    `theta` is the share of weights that a group uploads each epoch, and downloads, `value_bytes` each. A
    snapshot is stored every `snapshot_every` mini-batches, and at the end of a pass. `leaks`, if any, cap
    what a follower gets to see. `private` tells that steps on shares are those of DP-SGD, with room for every
    draw. While the dominator changes the samples of a mini-batch (training.augment) it holds
    `fed_bytes` more.
    """

    batch: int = 32
    micro_batch: int = 8
    in_flight: int = 32
    momentum: bool = False
    optimizer: Kind = "sgd"
    rotation: Rotation = DEFAULT_ROTATION
    theta: float = 0.5
    wire: WireFormat = WireFormat()
    staleness: int = 0
    snapshot_every: int = 100
    value_bytes: float = float(FLOAT)
    leaks: Leaks | None = None
    sums: Literal["plain", "masked", "shares"] = "plain"
    private: bool = False
    memory: MemoryUse = "fastest"
    fed_bytes: float = 0.0
    frozen: FrozenAs = "float32"

    @property
    def slots(self) -> tuple[str, ...]:
        """Return the arrays that the optimizer keeps beside each array of weights."""
        return typical(self.optimizer, momentum=self.momentum).slots

    @property
    def samples_kept(self) -> int:
        """Return samples whose sums a device keeps at once, at most."""
        return min((1 + self.staleness) * self.batch, self.in_flight * self.micro_batch)

    @property
    def is_one_micro_batch(self) -> bool:
        """Return True if a mini-batch enters as a whole, when the one before it is over."""
        return self.batch <= self.micro_batch and not self.staleness

    def micro_batches(self, samples: int) -> int:
        """Return micro-batches of a pass over `samples` samples."""
        whole, rest = divmod(samples, self.batch)
        return whole * ceil(self.batch / self.micro_batch) + ceil(rest / self.micro_batch)

    def snapshots(self, samples: int) -> int:
        """Return snapshots of every piece in a pass over `samples` samples."""
        return ceil(ceil(samples / self.batch) / self.snapshot_every)


@dataclass(frozen=True)
class NeuronCosts:
    """One neuron of a bundle: MACs per sample, and bytes of its state."""

    macs: float
    state: float


@dataclass(frozen=True)
class Costs:
    """A network in the planner's numbers, per bundle; `sample_bytes` are those of one input, and `leak` is a
    cap of followers' pieces.
    """

    neurons: tuple[int, ...]
    links: tuple[BundleLink, ...]
    each: tuple[NeuronCosts, ...]
    memory: Memory
    layers: tuple[tuple[int, ...], ...]
    shared_weights: int
    sample_bytes: int
    overhead: StateOverhead
    leak: Budget | None = None

    @property
    def pinned(self) -> frozenset[int]:
        """Return the bundles of input and output layer."""
        last = max(layer for members in self.layers for layer in members)
        return frozenset(b for b, members in enumerate(self.layers) if 0 in members or last in members)

    @property
    def state(self) -> float:
        """Return bytes of the whole network's state."""
        return sum(n * each.state for n, each in zip(self.neurons, self.each, strict=True))


def links(graph: NeuronGraph) -> tuple[BundleLink, ...]:
    """Return links between bundles, parallel edges merged."""
    bundle_of = {layer: b for b, members in enumerate(bundles(graph)) for layer in members}
    merged: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for edge, taught in zip(graph.edges, graph.taught, strict=True):
        if edge.kind not in PAIRED:
            ends = bundle_of[edge.source], bundle_of[edge.target]
            merged.setdefault(ends, []).append((graph.layers[edge.target].sum_floats, taught))
    return tuple(
        BundleLink(
            *ends,
            floats=sum(floats for floats, _ in edges),
            edges=len(edges),
            silent=sum(floats for floats, taught in edges if not taught),
            silent_edges=sum(not taught for _, taught in edges),
        )
        for ends, edges in sorted(merged.items())
    )


def costs(graph: NeuronGraph, training: Training, footprint: Footprint | None = None) -> Costs:
    """Price every bundle of the graph. Devices that share less than all weights sum up their gradients.

    Without a `footprint` what programs need to run is left out of the memory.
    """
    members = bundles(graph)
    ranked = training.theta < 1
    copies = 1 + len(training.slots) + ranked
    rows = training.samples_kept
    each, memory = [], []
    for layers in members:
        macs, parameters, buffers = _neuron(graph, layers)
        frozen, floats = frozen_bytes(graph, layers), frozen_bytes(as_modelled(graph), layers)
        state = FLOAT * (copies * parameters + buffers) + frozen - floats
        each.append(NeuronCosts(macs, state))
        # With staleness there are two versions of weights, and a second mini-batch's gradients, but for the
        # input layer's: they come last, when those of the one before are gone.
        more = training.staleness * (1 if 0 in layers else 2)
        gradient = FLOAT * (1 + more) * parameters
        known = bundle_memory(graph, layers, state, gradient, rows, training.micro_batch, footprint)
        memory.append(replace(known, ahead=known.ahead + training.fed_bytes * (0 in layers)))
    neurons = tuple(graph.layers[layers[0]].neurons for layers in members)
    first = graph.layers[0]
    steps = training.is_one_micro_batch and not ranked
    whole = [
        replace(tail, bytes=tail.bytes + training.fed_bytes * (0 in tail.inside))
        for tail in tails(graph, training.micro_batch, footprint, steps=steps)
    ]
    return Costs(
        neurons,
        links(graph),
        tuple(each),
        Memory(tuple(memory), tuple(whole)),
        members,
        sum(
            graph.layers[spec.layer].neurons * prod(spec.shape)
            for spec in array_specs(graph)
            if not spec.frozen
        ),
        FLOAT * first.neurons * first.sum_floats,
        state_overhead(graph, members, slots=training.slots, ranked=ranked),
        training.leaks.budget if training.leaks is not None else None,
    )


def piece_macs(graph: NeuronGraph, owned: Sequence[int]) -> float:
    """Return MACs a sample, forward and backward, of a piece that owns so many neurons of each layer."""
    return sum(owned[layers[0]] * _neuron(graph, layers)[0] for layers in bundles(graph))


def _neuron(graph: NeuronGraph, layers: tuple[int, ...]) -> tuple[float, float, float]:
    """Return MACs, parameters and buffers of a bundle's neuron. Its own operations run once forward and,
    where the layer goes backward, twice more.
    """
    macs = parameters = buffers = 0.0
    for edge, times in zip(graph.edges, graph.products, strict=True):
        if edge.source in layers:
            neurons = graph.layers[edge.source].neurons
            macs += times * edge.macs / neurons
            parameters += edge.parameters / neurons
            buffers += edge.buffers / neurons
    for index in layers:
        layer = graph.layers[index]
        macs += (3 if index in graph.backward else 1) * len(layer.ops) * layer.sum_floats
        parameters += layer.parameters / layer.neurons
        buffers += sum(op.buffers for op in layer.ops) / layer.neurons
    return macs, parameters, buffers


def frozen_bytes(graph: NeuronGraph, layers: Container[int]) -> int:
    """Return bytes of what is frozen of a neuron of each of these layers, as devices hold and send it."""
    return sum(
        np.dtype(spec.dtype).itemsize * prod(spec.shape)
        for spec in array_specs(graph)
        if spec.frozen and spec.layer in layers
    )


def sharing_bytes(weights: int, training: Training, groups: int) -> float:
    """Return bytes of sharing per epoch, but for what is around each upload: every group uploads a share
    theta of so many weights, index sets at their entropy, and of several groups each downloads as much.
    """
    theta = training.theta
    entropy = sum(-p * log2(p) for p in (theta, 1 - theta) if p)
    return groups * (1 + (groups > 1)) * weights * (theta * training.value_bytes + entropy / 8)
