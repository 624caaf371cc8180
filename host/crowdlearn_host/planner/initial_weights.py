"""The weights that training begins with, as groups share them."""

from __future__ import annotations

import numpy as np
from crowdlearn_device.protocol.frames import Floats
from crowdlearn_export.graph.neuron_graph import NeuronGraph
from crowdlearn_export.graph.shape import array_specs
from crowdlearn_export.graph.weights import arrays_of
from torch import nn


def initial_weights(graph: NeuronGraph, model: nn.Module) -> Floats:
    """Return the weights that groups share as training begins: float32 [N]."""
    arrays = arrays_of(graph, model.state_dict(), ())
    shared = [arrays[spec.name].reshape(-1) for spec in array_specs(graph) if not spec.frozen]
    return np.concatenate([np.zeros(0), *shared]).astype(np.float32)
