"""The model's weights as arrays with the neurons first, in slice order, and back to a state dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from crowdlearn_export.errors import ExportError

from .held.base import SPACING
from .held.registry import HELD
from .neuron_graph import Edge, Layer, NeuronGraph
from .shape import array_specs, as_modelled

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
    """Return every array that devices hold, float32 [neurons of its layer, ...], in slice order: of frozen
    weights their codes, and spacings behind these.

    Raises ExportError if the state dict lacks one.
    """
    held = HELD[graph.frozen_as]
    narrow = {spec.name for spec in array_specs(graph) if spec.frozen and spec.shape}
    arrays = {}
    for name, array in neurons_first(graph, state, order).items():
        parts = held.encoded(array.float().contiguous()) if name in narrow else (array,)
        for end, part in zip(("", SPACING), parts, strict=False):
            arrays[name + end] = np.ascontiguousarray(part.numpy(), np.float32)
    return arrays


def neurons_first(
    graph: NeuronGraph, state: Mapping[str, torch.Tensor], order: Order = ()
) -> dict[str, torch.Tensor]:
    """Return every array of the model's state, of any dtype, as [neurons of its layer, ...], in slice
    order.
    """
    orders = _orders(graph, order)
    edges = _weighted(graph)
    arrays = {}
    for spec in array_specs(as_modelled(graph)):
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
    given = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in arrays.items()}
    widened = HELD[graph.frozen_as].widened(given)
    for spec in array_specs(as_modelled(graph)):
        tensor = widened[spec.name][orders[spec.layer]]
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
