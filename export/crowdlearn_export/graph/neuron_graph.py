"""NeuronGraph: the network as layers of neurons joined by linear maps (docs/architecture.md).

A neuron is a unit of a dense layer or an output channel of a convolution. What joins layers is linear
(`Edge`); everything else (`LocalOp`) stays with one neuron, so that a layer may be cut between any two of its
neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Literal

from crowdlearn_export.errors import GraphError

if TYPE_CHECKING:
    from .whole import Whole

EdgeKind = Literal["dense", "conv", "depthwise", "identity", "whole"]
FrozenAs = Literal["float32", "float16", "int8"]
FLOAT = 4
"""Bytes of a float32."""
MAX_LAYERS = 10_000
MAX_NEURONS = 10_000_000


@dataclass(frozen=True)
class LocalOp:
    """An operation that needs nothing but one neuron's own values.

    `kind` is bias, batch_norm, dropout, max_pool, avg_pool, flatten, or that of an activation
    (activations.py). `module` is the dotted name of the nn.Module that it came from, "" where it was a
    function. `parameters` counts the floats of the whole layer that learn, `buffers` the others: running
    statistics, and what is frozen.
    """

    kind: str
    module: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict)
    parameters: int = 0
    buffers: int = 0


@dataclass(frozen=True)
class Layer:
    """Neurons that are summed, then transformed one by one.

    `sum_shape` is the shape of one neuron's incoming sum for one sample: () dense, (H, W) for a convolution.
    `output_shape` is its shape after `ops`; a flattened map of H x W is (H * W,).
    Layer 0 is the input (its "sum" is the sample itself), the last layer is the model's output.
    """

    index: int
    name: str
    neurons: int
    sum_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()
    ops: tuple[LocalOp, ...] = ()

    @property
    def sum_floats(self) -> int:
        """Return floats in one neuron's sum for one sample."""
        return prod(self.sum_shape)

    @property
    def output_floats(self) -> int:
        """Return floats in one neuron's output for one sample."""
        return prod(self.output_shape)

    @property
    def message_bytes(self) -> int:
        """Return bytes of the whole layer's sums for one sample: what a source sends if it owns none of
        it.
        """
        return FLOAT * self.neurons * self.sum_floats

    @property
    def parameters(self) -> int:
        """Return floats learned by the layer's own operations (biases, batch norm), without its edges."""
        return sum(op.parameters for op in self.ops)


@dataclass(frozen=True)
class Edge:
    """A linear map from one layer's outputs into another's sums.

    Its weights belong to the owner of the *source* neuron (the paper's slicing). `module` names the nn.Module
    whose `.weight` it is, "" for an identity edge. `macs` count the whole edge, for one sample; `parameters`
    its floats that learn, `buffers` those that are frozen.
    """

    source: int
    target: int
    kind: EdgeKind
    module: str = ""
    macs: int = 0
    parameters: int = 0
    attributes: Mapping[str, object] = field(default_factory=dict)
    buffers: int = 0


@dataclass(frozen=True)
class NeuronGraph:
    """Layers in topological order and the edges between them. `frozen` names the arrays that training leaves
    as they are (`freezing.py`); devices hold those with more than a number for each neuron as `frozen_as`.
    `whole` is what a network computes that has no layers of neurons: then its layers are the arrays of its
    state, a row a neuron.
    """

    name: str
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]
    frozen: tuple[str, ...] = ()
    whole: Whole | None = None
    frozen_as: FrozenAs = "float32"

    def incoming(self, layer: int) -> tuple[Edge, ...]:
        return tuple(e for e in self.edges if e.target == layer)

    def outgoing(self, layer: int) -> tuple[Edge, ...]:
        return tuple(e for e in self.edges if e.source == layer)

    @property
    def scores(self) -> tuple[int, ...]:
        """Return the shape of a sample's scores."""
        return (self.layers[-1].neurons, *self.layers[-1].sum_shape)

    @property
    def least_rows(self) -> int:
        """Return samples that a batch needs in training: batch norm has no variance of a single value."""
        if self.whole is not None:
            return 2 if any(layer.parameters or layer.ops for layer in self.layers) else 1
        for layer in self.layers:
            floats = layer.sum_floats
            for op in layer.ops:
                if op.kind in ("max_pool", "avg_pool"):
                    floats = layer.output_floats  # or more
                if op.kind == "batch_norm" and not op.attributes.get("fixed") and floats == 1:
                    return 2
        return 1

    @property
    def parameters(self) -> int:
        """Return floats that the whole network learns."""
        return sum(layer.parameters for layer in self.layers) + sum(edge.parameters for edge in self.edges)

    @property
    def taught(self) -> tuple[bool, ...]:
        """Return for each edge whether errors come back on it: its weights learn, or something behind them
        does.
        """
        reached = self._reached
        return tuple(edge.parameters > 0 or edge.source in reached for edge in self.edges)

    @property
    def products(self) -> tuple[int, ...]:
        """Return how often a training step computes each edge: forward, for the gradient of weights that
        learn, and for the errors of a source behind which something learns.
        """
        reached = self._reached
        return tuple(1 + (edge.parameters > 0) + (edge.source in reached) for edge in self.edges)

    @property
    def training_macs(self) -> int:
        """Return multiply-accumulates of the products of one sample's training step."""
        return sum(times * edge.macs for times, edge in zip(self.products, self.edges, strict=True))

    @property
    def errors(self) -> int:
        """Return floats of one sample's errors that a weight learns from, of the sums of all layers."""
        asked = {edge.target for edge, taught in zip(self.edges, self.taught, strict=True) if taught}
        return sum(self.layers[layer].neurons * self.layers[layer].sum_floats for layer in asked)

    @property
    def _reached(self) -> set[int]:
        """Return the layers in whose own operations something learns, or before them: errors pass through
        these.
        """
        reached = {layer.index for layer in self.layers if layer.parameters}
        for edge in sorted(self.edges, key=lambda edge: edge.target):
            if edge.parameters or edge.source in reached:
                reached.add(edge.target)
        return reached

    @property
    def backward(self) -> set[int]:
        """Return the layers that go backward: errors come back to them, or begin there."""
        ends = {len(self.layers) - 1}
        return ends | {edge.source for edge, taught in zip(self.edges, self.taught, strict=True) if taught}

    @property
    def macs(self) -> int:
        """Return multiply-accumulates of one sample's forward pass."""
        return sum(edge.macs for edge in self.edges)


def check_graph(graph: NeuronGraph) -> None:
    """Raise GraphError unless this is a DAG from layer 0 to the last layer whose edges fit their layers."""
    count = len(graph.layers)
    if not 2 <= count <= MAX_LAYERS:
        raise GraphError(f"graph {graph.name}: {count} layers; 2 to {MAX_LAYERS} are possible")
    for edge in graph.edges:
        if not 0 <= edge.source < edge.target < count:
            raise GraphError(f"edge {edge.source} -> {edge.target}: edges go forward among {count} layers")
        source, target = graph.layers[edge.source], graph.layers[edge.target]
        if edge.kind in ("identity", "depthwise") and source.neurons != target.neurons:
            raise GraphError(f"{edge.kind} edge {source.name} -> {target.name} joins unequal layers")
        if edge.macs < 0 or edge.parameters < 0:
            raise GraphError(f"edge {source.name} -> {target.name}: negative cost")
    for index, layer in enumerate(graph.layers):
        if layer.index != index:
            raise GraphError(f"layer {layer.name}: index {layer.index} at position {index}")
        if not 1 <= layer.neurons <= MAX_NEURONS:
            raise GraphError(f"layer {layer.name}: {layer.neurons} neurons; 1 to {MAX_NEURONS} are possible")
        if min((*layer.sum_shape, *layer.output_shape), default=1) < 1:
            raise GraphError(
                f"layer {layer.name}: shapes {layer.sum_shape}, {layer.output_shape} must be positive"
            )
        if index and not graph.incoming(index):
            raise GraphError(f"layer {layer.name}: nothing leads to it")
        if index < count - 1 and not graph.outgoing(index):
            raise GraphError(f"layer {layer.name}: it leads nowhere")
