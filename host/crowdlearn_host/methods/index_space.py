"""The index space of sharing: all floats of a model's state dict, in its order, as one vector."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from crowdlearn_device.sharing.selection import stretches
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs, as_modelled
from crowdlearn_export.graph.weights import neurons_first, ties
from numpy.typing import NDArray

from crowdlearn_host.errors import PlanError
from crowdlearn_host.planner.plan import Plan


@dataclass(frozen=True)
class FlatEntry:
    """One tensor of the state dict at [start, stop) of the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def flat_layout(
    state: Mapping[str, torch.Tensor], unused: Container[str] = frozenset()
) -> tuple[FlatEntry, ...]:
    """Return where each float tensor of `state` lies in the vector. Integer buffers and what is `unused` have
    no place, and tied weights have one.
    """
    entries = []
    start = 0
    shared = ties(state)
    for name, tensor in state.items():
        if tensor.is_floating_point() and name not in shared and name not in unused:
            entries.append(FlatEntry(name, tuple(tensor.shape), start, start + tensor.numel()))
            start += tensor.numel()
    return tuple(entries)


def unused_in(state: Mapping[str, torch.Tensor], graph: NeuronGraph) -> frozenset[str]:
    """Return the float tensors of `state` that no scores depend on: the graph has no neurons for them."""
    used = {spec.name for spec in array_specs(as_modelled(graph))}
    return frozenset(entry.name for entry in flat_layout(state) if entry.name not in used)


def flatten(state: Mapping[str, torch.Tensor], unused: Container[str] = frozenset()) -> NDArray[np.float32]:
    """Return the state's floats as one float32 vector. It is float32 [floats]."""
    parts = [state[entry.name].detach().reshape(-1).numpy() for entry in flat_layout(state, unused)]
    return np.concatenate(parts).astype(np.float32)


def unflatten(
    vector: NDArray[np.float32],
    template: Mapping[str, torch.Tensor],
    unused: Container[str] = frozenset(),
) -> dict[str, torch.Tensor]:
    """Return a state dict like `template` with the vector's floats: the inverse of `flatten`.

    The vector is float32 [floats].
    """
    state = {name: tensor.detach().clone() for name, tensor in template.items()}
    for entry in flat_layout(template, unused):
        part = torch.from_numpy(vector[entry.start : entry.stop].copy())
        state[entry.name] = part.reshape(entry.shape).to(state[entry.name].dtype)
    for name, first in ties(template).items():
        state[name] = state[first].clone()
    return state


def travelling(layout: tuple[FlatEntry, ...], graph: NeuronGraph, plan: Plan) -> NDArray[np.int64]:
    """Return where in the vector each weight lies, in the order in which weights travel: by the graph's
    arrays, each with its neurons first, as the plan orders them.

    Raises PlanError if a tensor of the state is not the graph's. They are int64 [floats].
    """
    places = {entry.name: torch.arange(entry.start, entry.stop).reshape(entry.shape) for entry in layout}
    specs = array_specs(as_modelled(graph))
    sizes = {spec.name: graph.layers[spec.layer].neurons * prod(spec.shape) for spec in specs}
    for name, tensor in places.items():
        if sizes.get(name) != tensor.numel():
            raise PlanError(f"{name} does not belong to {graph.name}; plan the model that is trained")
    arrays = neurons_first(graph, places, plan.order)
    return np.concatenate([array.reshape(-1).numpy() for array in arrays.values()])


def piece_of_weight(layout: tuple[FlatEntry, ...], graph: NeuronGraph, plan: Plan) -> NDArray[np.int32]:
    """Return the piece that is responsible for each weight of the vector: the owner of its (source) neuron.

    Raises PlanError if a tensor of the state is not the graph's. They are int32 [floats].
    """
    places = travelling(layout, graph, plan)
    pieces = np.empty(len(places), np.int32)
    for number, piece in enumerate(plan.pieces):
        for part in stretches(array_specs(as_modelled(graph)), piece.neurons):
            pieces[places[part.start : part.stop]] = number
    return pieces


def piece_of_neuron(graph: NeuronGraph, plan: Plan, layer: int) -> NDArray[np.int32]:
    """Return the piece that owns each neuron of a layer, in the model's order. They are int64 [neurons]."""
    pieces = np.empty(graph.layers[layer].neurons, np.int32)
    for number, piece in enumerate(plan.pieces):
        start, stop = piece.neurons[layer]
        pieces[start:stop] = number
    if not plan.order or not plan.order[layer]:
        return pieces
    in_model_order = np.empty_like(pieces)
    in_model_order[list(plan.order[layer])] = pieces
    return in_model_order
