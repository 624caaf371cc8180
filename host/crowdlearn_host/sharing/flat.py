"""The index space of sharing: all floats of a model's state dict, in its order, as one vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from crowdlearn_export.graph import Edge, NeuronGraph
from numpy.typing import NDArray

from ..errors import PlanError
from ..planner.plan import Plan


@dataclass(frozen=True)
class FlatEntry:
    """One tensor of the state dict at [start, stop) of the vector."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def flat_layout(state: Mapping[str, torch.Tensor]) -> tuple[FlatEntry, ...]:
    """Where each float tensor of `state` lies in the vector; integer buffers have no place."""
    entries = []
    start = 0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            entries.append(FlatEntry(name, tuple(tensor.shape), start, start + tensor.numel()))
            start += tensor.numel()
    return tuple(entries)


def flatten(state: Mapping[str, torch.Tensor]) -> NDArray[np.float32]:
    """The state's floats as one float32 vector."""
    parts = [state[entry.name].detach().reshape(-1).numpy() for entry in flat_layout(state)]
    return np.concatenate(parts).astype(np.float32)


def unflatten(vector: NDArray[np.float32], template: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict like `template` with the vector's floats: the inverse of `flatten`."""
    state = {name: tensor.detach().clone() for name, tensor in template.items()}
    for entry in flat_layout(template):
        part = torch.from_numpy(vector[entry.start : entry.stop].copy())
        state[entry.name] = part.reshape(entry.shape).to(state[entry.name].dtype)
    return state


def piece_of_weight(layout: tuple[FlatEntry, ...], graph: NeuronGraph, plan: Plan) -> NDArray[np.int32]:
    """The piece that is responsible for each weight of the vector: the owner of its (source) neuron.

    Raises PlanError where a tensor of the state is not the graph's.
    """
    piece_of = [piece_of_neuron(graph, plan, layer) for layer in range(len(graph.layers))]
    by_name: dict[str, NDArray[np.int32]] = {}
    for edge in graph.edges:
        if edge.module:
            by_name[f"{edge.module}.weight"] = _spread(edge, graph, piece_of[edge.source])
    for layer in graph.layers:
        for op in layer.ops:
            for kind in ("weight", "bias", "running_mean", "running_var"):
                if op.module:
                    by_name.setdefault(f"{op.module}.{kind}", piece_of[layer.index])
    owners = np.empty(layout[-1].stop, np.int32)
    for entry in layout:
        try:
            spread = np.broadcast_to(by_name[entry.name], entry.shape)
        except (KeyError, ValueError) as error:
            raise PlanError(
                f"{entry.name} does not belong to {graph.name}; plan the model that is trained"
            ) from error
        owners[entry.start : entry.stop] = spread.reshape(-1)
    return owners


def piece_of_neuron(graph: NeuronGraph, plan: Plan, layer: int) -> NDArray[np.int32]:
    """The piece that owns each neuron of a layer, in the model's order."""
    pieces = np.empty(graph.layers[layer].neurons, np.int32)
    for number, piece in enumerate(plan.pieces):
        start, stop = piece.neurons[layer]
        pieces[start:stop] = number
    if not plan.order or not plan.order[layer]:
        return pieces
    in_model_order = np.empty_like(pieces)
    in_model_order[list(plan.order[layer])] = pieces
    return in_model_order


def _spread(edge: Edge, graph: NeuronGraph, sources: NDArray[np.int32]) -> NDArray[np.int32]:
    """The sources' pieces in a shape that broadcasts to the module's weight, [targets, sources, ...]."""
    if edge.kind == "dense":
        return np.repeat(sources, graph.layers[edge.source].output_floats)[None, :]
    return sources[:, None, None, None] if edge.kind == "depthwise" else sources[None, :, None, None]
