"""NeuronGraph: the network as layers of neurons joined by linear maps (architecture.md, section 2).

A neuron is a unit of a dense layer or an output channel of a convolution. What joins layers is linear
(`Edge`); everything else (`LocalOp`) stays with one neuron, so that a layer may be cut between any two of its neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Literal

EdgeKind = Literal["dense", "conv", "depthwise", "identity"]
FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class LocalOp:
    """An operation that needs nothing but one neuron's own values.

    `kind` is one of bias, batch_norm, relu, gelu, tanh, sigmoid, ..., dropout, max_pool, avg_pool, flatten.
    `module` is the dotted name of the nn.Module that holds its parameters, or "" where it has none.
    """

    kind: str
    module: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict)


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
        """Floats in one neuron's sum for one sample."""
        return prod(self.sum_shape)

    @property
    def output_floats(self) -> int:
        """Floats in one neuron's output for one sample."""
        return prod(self.output_shape)


@dataclass(frozen=True)
class Edge:
    """A linear map from one layer's outputs into another's sums.

    Its weights belong to the owner of the *source* neuron (slicenet.md, section 2). `module` names the nn.Module
    whose `.weight` it is, "" for an identity edge. `macs` and `parameters` count the whole edge, for one sample.
    """

    source: int
    target: int
    kind: EdgeKind
    module: str = ""
    macs: int = 0
    parameters: int = 0
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class NeuronGraph:
    """Layers in topological order and the edges between them."""

    name: str
    layers: tuple[Layer, ...]
    edges: tuple[Edge, ...]

    def incoming(self, layer: int) -> tuple[Edge, ...]:
        return tuple(e for e in self.edges if e.target == layer)

    def outgoing(self, layer: int) -> tuple[Edge, ...]:
        return tuple(e for e in self.edges if e.source == layer)
