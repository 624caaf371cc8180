"""The model's weights as arrays with the neurons first, in slice order, and back to a state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from crowdlearn_export.errors import ExportError

from .neuron_graph import Edge, Layer, NeuronGraph
from .shape import array_specs

Floats = npt.NDArray[np.float32]
Order = Sequence[Sequence[int]]


def _orders(graph: NeuronGraph, order: Order) -> list[npt.NDArray[np.int64]]:
    if not order:
        return [np.arange(layer.neurons) for layer in graph.layers]
    return [
        np.asarray(o if len(o) else range(layer.neurons))
        for o, layer in zip(order, graph.layers, strict=True)
    ]


def _weighted(graph: NeuronGraph) -> dict[str, Edge]:
    """Return the edges that have weights, by the names of these."""
    return {f"{e.module}.weight": e for e in graph.edges if e.kind not in ("identity", "whole")}


def ties(state: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the names of arrays of a state that are an earlier one, as tied weights are, and the names of
    these.
    """
    seen: dict[tuple[object, ...], str] = {}
    found = {}
    for name, tensor in state.items():
        if tensor.numel():
            first = seen.setdefault((tensor.data_ptr(), tuple(tensor.shape), tensor.stride()), name)
            if first != name:
                found[name] = first
    return found


def arrays_of(graph: NeuronGraph, state: Mapping[str, torch.Tensor], order: Order = ()) -> dict[str, Floats]:
    """Return every array of the graph, float32 [neurons of its layer, ...], in slice order.

    Raises ExportError if the state dict lacks one.
    """
    arrays = neurons_first(graph, state, order)
    return {name: np.ascontiguousarray(array.numpy(), np.float32) for name, array in arrays.items()}


def neurons_first(
    graph: NeuronGraph, state: Mapping[str, torch.Tensor], order: Order = ()
) -> dict[str, torch.Tensor]:
    """Return the same of a state dict of any dtype."""
    orders = _orders(graph, order)
    edges = _weighted(graph)
    arrays = {}
    for spec in array_specs(graph):
        if spec.name not in state:
            raise ExportError(f"the model's state has no {spec.name!r}; it belongs to another model")
        tensor = state[spec.name].detach()
        tensor = tensor if tensor.dim() else tensor.reshape(1)
        if edge := edges.get(spec.name):
            tensor = _to_neurons_first(edge, graph.layers[edge.source], tensor)
            if edge.kind in ("dense", "conv"):
                axis = tensor.dim() - 1 if edge.kind == "dense" else 1
                tensor = tensor.index_select(axis, torch.from_numpy(orders[edge.target]))
        arrays[spec.name] = tensor[torch.from_numpy(orders[spec.layer])]
    return arrays


def state_of(
    graph: NeuronGraph, arrays: Mapping[str, Floats], template: Mapping[str, torch.Tensor], order: Order = ()
) -> dict[str, torch.Tensor]:
    """Return a state dict shaped like `template` with the arrays' values: the inverse of `arrays_of`.

    Arrays are float32 [neurons, ...].
    """
    orders = [torch.from_numpy(np.argsort(o)) for o in _orders(graph, order)]
    edges = _weighted(graph)
    state = {name: tensor.detach().clone() for name, tensor in template.items()}
    for spec in array_specs(graph):
        tensor = torch.from_numpy(np.array(arrays[spec.name], np.float32))[orders[spec.layer]]
        if edge := edges.get(spec.name):
            if edge.kind in ("dense", "conv"):
                axis = tensor.dim() - 1 if edge.kind == "dense" else 1
                tensor = tensor.index_select(axis, orders[edge.target])
            tensor = _from_neurons_first(edge, graph.layers[edge.source], tensor)
        state[spec.name] = tensor.reshape(state[spec.name].shape).to(state[spec.name].dtype).contiguous()
    for name, first in ties(template).items():
        state[name] = state[first].clone()
    return state


def _to_neurons_first(edge: Edge, source: Layer, weight: torch.Tensor) -> torch.Tensor:
    """Return a module's weight, [targets, ...], as [source neurons, ...]."""
    if edge.kind in ("depthwise", "conv"):
        maps = weight.unsqueeze(2) if weight.dim() == 3 else weight  # signals are maps of height 1
        return maps if edge.kind == "depthwise" else maps.transpose(0, 1)
    return weight.T.reshape(source.neurons, *source.output_shape, weight.shape[0])


def _from_neurons_first(edge: Edge, source: Layer, weight: torch.Tensor) -> torch.Tensor:
    """Return the inverse of `_to_neurons_first`."""
    if edge.kind == "depthwise":
        return weight
    if edge.kind == "conv":
        return weight.transpose(0, 1)
    return weight.reshape(source.neurons * source.output_floats, -1).T
