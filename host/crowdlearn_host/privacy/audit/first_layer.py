"""First sums of any samples under weights that an attacker knows: linear, hence cheap to rehearse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from crowdlearn_device.piece.routes import overlap
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.neuron_graph import Edge

from .rehearsal import Arrays, Recipe


def first_sums(recipe: Recipe, values: Arrays, inputs: Floats, pieces: Sequence[int]) -> Floats:
    """Compute what the holders of `pieces` get of samples [N, ...] as first sums, float32 [N, d].

    The numbers are in the order of `Views.features`, and not rounded.
    """
    graph = recipe.graph
    x = torch.from_numpy(inputs).reshape(len(inputs), graph.layers[0].neurons, *graph.layers[0].sum_shape)
    layout = tuple(piece.neurons for piece in recipe.plan.pieces)
    found = []
    for piece in pieces:
        for edge in graph.edges:
            if edge.source != 0:
                continue
            weight = torch.from_numpy(values[f"{edge.module}.weight"])
            for partner, owned in enumerate(layout):
                own = layout[piece][edge.target]
                a, b = overlap(owned[0], own) if edge.kind == "depthwise" else own
                if owned[0][1] > owned[0][0] and b > a and partner != piece:
                    found.append(_sums(edge, weight, x, a, b).reshape(len(inputs), -1).numpy())
    return np.ascontiguousarray(np.concatenate(found, axis=1))


def _sums(edge: Edge, weight: torch.Tensor, x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return one linear map of the input layer, into some target neurons; `weight` has source neurons
    first.
    """
    if edge.kind == "dense":
        return x.reshape(len(x), -1) @ weight.reshape(-1, weight.shape[-1])[:, start:stop]
    attributes: Any = edge.attributes
    stride, padding, dilation = attributes["stride"], attributes["padding"], attributes["dilation"]
    if edge.kind == "depthwise":
        own = weight[start:stop]
        return F.conv2d(x[:, start:stop], own, None, stride, padding, dilation, groups=len(own))
    return F.conv2d(x, weight[:, start:stop].transpose(0, 1), None, stride, padding, dilation)
