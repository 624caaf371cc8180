"""A graph in the manifest's words: the shape of a piece of it, and where its arrays are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from crowdlearn_device.program.manifest import (
    ArraySpec,
    EdgeSpec,
    LayerSpec,
    PieceShape,
)
from crowdlearn_device.protocol.targets import CLASSES, TargetSpec

from .held.base import SPACING
from .held.registry import HELD
from .neuron_graph import Edge, Layer, NeuronGraph

MATCHED = ("identity", "depthwise")


def piece_shape(graph: NeuronGraph, owned: Sequence[int], targets: TargetSpec = CLASSES) -> PieceShape:
    """Return the shape of a piece that owns `owned[layer]` neurons of each layer."""
    return PieceShape(
        tuple(
            LayerSpec(layer.neurons, count, layer.sum_shape, *_dropout(layer), _dtype(graph, layer))
            for layer, count in zip(graph.layers, owned, strict=True)
        ),
        tuple(
            EdgeSpec(edge.source, edge.target, edge.kind in MATCHED, taught)
            for edge, taught in zip(graph.edges, graph.taught, strict=True)
        ),
        tuple(array for array in array_specs(graph) if owned[array.layer]),
        targets=targets,
    )


def _dropout(layer: Layer) -> tuple[float, tuple[int, ...]]:
    """Return the probability of the layer's dropout, 0 if it has none, and the shape of a neuron's
    factors.
    """
    for op in layer.ops:
        if op.kind == "dropout":
            given: Any = op.attributes
            return float(given["p"]), tuple(given["shape"])
    return 0.0, ()


def _dtype(graph: NeuronGraph, layer: Layer) -> str:
    integers = graph.whole is not None and graph.whole.integers
    return "int64" if integers and layer.index == 0 else "float32"


def as_modelled(graph: NeuronGraph) -> NeuronGraph:
    """Return the graph whose arrays are those of the model's state: frozen weights as float32."""
    return replace(graph, frozen_as="float32")


def array_specs(graph: NeuronGraph) -> tuple[ArraySpec, ...]:
    """Return every array that devices hold of the model, by the layer whose owner keeps it; `shape` is one
    neuron's part.
    """
    arrays: list[ArraySpec] = []
    frozen = set(graph.frozen)
    held = HELD[graph.frozen_as]

    def append(name: str, layer: int, shape: tuple[int, ...], learns: bool, rests: bool, dtype: str) -> None:
        offset = 0
        if arrays:
            last = arrays[-1]
            offset = last.offset + graph.layers[last.layer].neurons * prod(last.shape)
        arrays.append(ArraySpec(name, layer, shape, learns, offset, rests, dtype))

    def add(name: str, layer: int, shape: tuple[int, ...], learns: bool) -> None:
        rests = name in frozen
        narrow = rests and len(shape) > 0
        append(name, layer, shape, learns and not rests, rests, held.dtype if narrow else "float32")
        if narrow and held.spaced:
            append(name + SPACING, layer, (), learns=False, rests=True, dtype="float32")

    for layer in graph.layers:
        for op in layer.ops:
            if op.kind == "array":
                given: Any = op.attributes
                add(op.module, layer.index, tuple(given["shape"]), given["role"] == "parameter")
            if op.kind == "bias":
                add(f"{op.module}.bias", layer.index, (), True)
            if op.kind == "batch_norm":
                if op.attributes.get("affine", True):
                    add(f"{op.module}.weight", layer.index, (), True)
                    add(f"{op.module}.bias", layer.index, (), True)
                add(f"{op.module}.running_mean", layer.index, (), False)
                add(f"{op.module}.running_var", layer.index, (), False)
        for edge in graph.outgoing(layer.index):
            if edge.kind not in ("identity", "whole"):
                add(f"{edge.module}.weight", layer.index, _weight_shape(graph, edge), True)
    return tuple(arrays)


def _weight_shape(graph: NeuronGraph, edge: Edge) -> tuple[int, ...]:
    source, target = graph.layers[edge.source], graph.layers[edge.target]
    if edge.kind == "dense":
        return (*source.output_shape, target.neurons)
    kernel: Any = edge.attributes["kernel"]
    return (1, *kernel) if edge.kind == "depthwise" else (target.neurons, *kernel)
